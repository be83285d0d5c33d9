"""What a tenant name is, and which names in a tenant's folder are key files."""

import re
from typing import NewType

from jwks_server.core.errors import TenantNameError

TenantName = NewType("TenantName", str)
"""A tenant domain that is safe as a folder name and as a path segment of a URL."""

SUPER_TENANT = TenantName("carbon.super")
POLICY_FILE = "tenant.toml"
REVOKED_FILE = "revoked"
PASSWORD_ENDING = ".password"  # noqa: S105 - an ending, not a password

_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,252}", re.ASCII)
_LINES = re.compile(rf"{_TENANT.pattern}(?:\n{_TENANT.pattern})*", re.ASCII)
_TEMPORARY = re.compile(r"\..*|.*~|#.*#|.*\.(?:swp|swo|swx|tmp|part)|4913", re.DOTALL)


def tenant_name(text: str) -> TenantName:
    """Return `text` as a tenant name, or raise TenantNameError: nothing is folded, trimmed or decoded."""
    if not is_tenant_name(text):
        raise TenantNameError(
            f"{text[:80]!r} is not a tenant domain: lower-case letters, digits, '.', '-' and '_', "
            "starting with a letter or digit, at most 253 characters",
        )
    return TenantName(text)


def is_tenant_name(text: str) -> bool:
    """Tell whether the text is a tenant name as it stands."""
    return _TENANT.fullmatch(text) is not None


def tenant_names(lines: str) -> tuple[TenantName, ...]:
    """Return the tenant names in a text, one a line; raise TenantNameError where a line is none.

    All lines are checked by one match, for a tree may have fifty thousand.
    """
    if lines and _LINES.fullmatch(lines) is None:
        raise TenantNameError("a line that is no tenant domain")
    return tuple(map(TenantName, lines.split("\n"))) if lines else ()


def is_key_file(name: str) -> bool:
    """Tell whether a file of this name in a tenant's folder is meant to hold keys.

    Hidden files, editors' temporary files, passwords, the policy and the list of revoked keys are not.
    """
    if name in {POLICY_FILE, REVOKED_FILE} or name.endswith(PASSWORD_ENDING):
        return False
    return not is_temporary(name)


def is_temporary(name: str) -> bool:
    """Tell whether the name is hidden or one that editors and copying tools use while they write."""
    return _TEMPORARY.fullmatch(name) is not None

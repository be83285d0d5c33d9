"""Where the password of a keystore may be: beside it, with the tenant's name among the credentials, server-wide.

The first that exists is the one. A password beside its keystore is read by whoever reads the keystore. The others lie
where no reader process may look: the server hands each job what its own tenant may use, and nothing else.
"""

import hashlib
import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password
from jwks_server.core.tenant import PASSWORD_ENDING, TenantName
from jwks_server.reading.files import file_facts, read_file, read_within
from jwks_server.reading.links import Trust

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Outside:
    """A tenant's password outside its folder: the name of its file, and its value or why it cannot be read.

    `mark` changes when another file may be the one, or its content may have changed.
    """

    mark: bytes = b""
    name: str = ""
    value: bytes | None = field(default=None, repr=False)
    fault: str | None = None


class Passwords(Protocol):
    """The passwords outside the tree: read from their files, or as the server handed them over."""

    def mark(self, tenant: TenantName) -> bytes:
        """Return what changes when the tenant's password outside its folder may have."""
        ...

    def outside(self, tenant: TenantName) -> Outside:
        """Return the tenant's password outside its folder."""
        ...


@dataclass(frozen=True, slots=True)
class PasswordSources:
    """Where passwords are that do not lie beside their keystore; None where there are none."""

    directory: str | None = None
    server_wide: str | None = None

    def __bool__(self) -> bool:
        return self.directory is not None or self.server_wide is not None

    def mark(self, tenant: TenantName) -> bytes:
        """Return a digest of the times and sizes of the files that may hold the tenant's password."""
        return self.marks((tenant,), None)[tenant]

    def marks(self, tenants: Iterable[TenantName], names: Container[str] | None) -> Mapping[TenantName, bytes]:
        """Return the marks of many tenants; `names` are those in the directory, where they are known."""
        of_server = () if self.server_wide is None else file_facts(self.server_wide)
        of_rest = _mark((), of_server)
        marks: dict[TenantName, bytes] = {}
        for tenant in tenants:
            name = f"{tenant}{PASSWORD_ENDING}"
            if self.directory is None or not (names is None or name in names):
                marks[tenant] = of_rest
            else:
                marks[tenant] = _mark(file_facts(os.path.join(self.directory, name)), of_server)
        return marks

    def outside(self, tenant: TenantName) -> Outside:
        """Read the first of the tenant's files that exists."""
        mark = self.mark(tenant)  # first: a change while the file is read is seen by the next comparison
        for path in self._paths(tenant):
            name = os.path.basename(path)
            try:
                content = read_file(path, max_bytes=_MAX_BYTES)
            except FileNotFoundError:
                continue
            except KeyFileError as error:
                return Outside(mark, name, fault=str(error))
            return Outside(mark, name, _first_line(content))
        return Outside(mark)

    def _paths(self, tenant: TenantName) -> tuple[str, ...]:
        of_tenant = () if self.directory is None else (os.path.join(self.directory, f"{tenant}{PASSWORD_ENDING}"),)
        return of_tenant if self.server_wide is None else (*of_tenant, self.server_wide)


@dataclass(frozen=True, slots=True)
class HandedPasswords:
    """What the server hands over with a job: one tenant's password, or the marks of many tenants that are compared."""

    given: Outside = Outside()
    marks: Mapping[TenantName, bytes] = field(default_factory=dict)

    def mark(self, tenant: TenantName) -> bytes:
        """Return the tenant's mark."""
        return self.marks.get(tenant, self.given.mark)

    def outside(self, tenant: TenantName) -> Outside:
        """Return what was handed over; the job names one tenant."""
        del tenant
        return self.given


NOTHING = HandedPasswords()


def password_for(file_name: str, folder: int, trust: Trust, outside: Outside) -> Password | None:
    """Return the password for a file in the tenant's opened folder; raise KeyFileError where it cannot be read."""
    beside = f"{file_name}{PASSWORD_ENDING}"
    try:
        return Password(_first_line(read_within(beside, folder, trust, _MAX_BYTES)))
    except FileNotFoundError:
        pass
    except KeyFileError as error:
        raise KeyFileError(f"its password file {beside}: {error}") from error
    if outside.fault is not None:
        raise KeyFileError(f"its password file {outside.name}: {outside.fault}")
    return None if outside.value is None else Password(outside.value)


def _mark(*facts: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest() if any(facts) else b""


def _first_line(content: bytes) -> bytes:
    return content.split(b"\n", 1)[0].rstrip(b"\r")

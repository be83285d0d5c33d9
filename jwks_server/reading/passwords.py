"""Where the password of a keystore may be: beside it, with the tenant's name among the credentials, server-wide.

The first that exists is the one. A password is read when a keystore needs it, goes to the reader of that keystore and
nowhere else.
"""

import os
from dataclasses import dataclass

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password
from jwks_server.core.tenant import PASSWORD_ENDING, TenantName
from jwks_server.reading.files import file_facts, read_file, read_within
from jwks_server.reading.links import Trust

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PasswordSources:
    """Where passwords are that do not lie beside their keystore; None where there are none."""

    directory: str | None = None
    server_wide: str | None = None

    def facts(self, tenant: TenantName) -> tuple[object, ...]:
        """Return what changes when one of the tenant's passwords outside its folder may have."""
        return tuple(file_facts(path) for path in self._paths(tenant))

    def find(self, tenant: TenantName, file_name: str, folder: int, trust: Trust) -> Password | None:
        """Return the password for a file in the tenant's opened folder; raise KeyFileError where it cannot be read."""
        beside = f"{file_name}{PASSWORD_ENDING}"
        for path in (None, *self._paths(tenant)):
            try:
                content = (
                    read_within(beside, folder, trust, _MAX_BYTES) if path is None else read_file(path, _MAX_BYTES)
                )
            except FileNotFoundError:
                continue
            except KeyFileError as error:
                raise KeyFileError(f"its password file {os.path.basename(path or beside)}: {error}") from error
            return Password(content.split(b"\n", 1)[0].rstrip(b"\r"))
        return None

    def _paths(self, tenant: TenantName) -> tuple[str, ...]:
        of_tenant = () if self.directory is None else (os.path.join(self.directory, f"{tenant}{PASSWORD_ENDING}"),)
        return of_tenant if self.server_wide is None else (*of_tenant, self.server_wide)

"""The server's settings as one frozen value; flags win over the environment, the environment over the file."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from jwks_server.core.errors import SettingsError
from jwks_server.core.policy import Policy
from jwks_server.core.tenant import SUPER_TENANT, TenantName
from jwks_server.core.timing import Timing
from jwks_server.host.mounts import tells_changes_apart
from jwks_server.reading.passwords import PasswordSources
from jwks_server.reading.source import Limits, Source

MAX_CONNECTIONS = 8000
"""What fits the unit's MemoryMax=1G at 35 to 80 kB for each."""
MAX_CONNECTIONS_PER_ADDRESS = 1000
"""An eighth of that: a proxy in front is one address."""
MEDIA_TYPES = ("application/json", "application/jwk-set+json")


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the server is told at its start. With `http` there is no TLS; without files TLS is self-signed."""

    keystores: Path
    host: str = "localhost"
    port: int = 9443
    http: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    super_tenant: TenantName = SUPER_TENANT
    policy: Policy = Policy()
    passwords: PasswordSources = PasswordSources()
    limits: Limits = Limits()
    media_type: str = MEDIA_TYPES[0]
    log_format: str = "text"
    log_level: str = "info"
    state_dir: Path | None = None
    admin_port: int | None = None
    max_connections: int = MAX_CONNECTIONS
    max_connections_per_address: int = MAX_CONNECTIONS_PER_ADDRESS
    timing: Timing = Timing()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls-cert and tls-key go together: give both or neither")
        if self.http and self.tls_cert is not None:
            raise SettingsError("http serves without TLS and takes no tls-cert: give one or the other")

    @property
    def source(self) -> Source:
        """Where the keys come from."""
        root = str(self.keystores.absolute())
        places = self.passwords.directory, self.passwords.server_wide, self.tls_key, self.state_dir
        closed = tuple(str(Path(place).absolute()) for place in places if place)
        exact_times = tells_changes_apart(root)
        return Source(root, self.passwords, self.policy, exact_times, limits=self.limits, closed=closed)


def read_file(path: str, known: Collection[str]) -> Mapping[str, object]:
    """Return the settings of a TOML file; raise SettingsError naming the file and the key that nobody knows."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"configuration file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration file {path} is not TOML: {error}") from error
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise SettingsError(f"configuration file {path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return values

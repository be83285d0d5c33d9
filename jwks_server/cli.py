"""The command line: parses arguments, runs the server or a command, and exits.

Exit codes: 0 all is well, 1 a problem was found in the keystores, 2 the command could not be carried out as given.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from jwks_server.commands.check import check_tree
from jwks_server.commands.revoke import revoke_key
from jwks_server.commands.show import show_tenant
from jwks_server.core.errors import JwksServerError, PolicyError, SettingsError, TenantNameError
from jwks_server.core.kid import Scheme
from jwks_server.core.policy import OPT_INS, Policy
from jwks_server.core.tenant import SUPER_TENANT, TenantName, tenant_name
from jwks_server.core.timing import Timing
from jwks_server.daemon import config
from jwks_server.host.logs import LEVELS, complain
from jwks_server.reading.passwords import PasswordSources
from jwks_server.reading.source import UNHURRIED, Limits, Source

ENVIRONMENT_PREFIX = "JWKS_SERVER_"
MAX_PORT = 65_535

Command = TypeVar("Command", bound=Callable[..., object])


class _TenantType(click.ParamType[TenantName]):
    name = "tenant"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> TenantName:
        try:
            return tenant_name(str(value))
        except TenantNameError as error:
            self.fail(str(error), param, ctx)


class _ListType(click.ParamType[tuple[object, ...]]):
    """`RS256,PS256` on the command line and in the environment, a list in the file."""

    name = "a,b,…"

    def convert(
        self, value: str | list[object] | tuple[object, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[object, ...]:
        del param, ctx
        return (
            tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else tuple(value)
        )


def _setting(flag: str, **options: Any) -> Callable[[Command], Command]:  # noqa: ANN401 - click's own options
    """Return a click option that is also a variable of the environment and a key of the configuration file."""
    name = _name(flag)
    return click.option(
        flag, name, envvar=ENVIRONMENT_PREFIX + name.upper(), show_envvar=True, **{"show_default": True, **options}
    )


def _name(flag: str) -> str:
    """Return the key of the configuration file that is a flag's."""
    return flag.partition("/")[0].lstrip("-").replace("-", "_")


_CONFIG = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar=ENVIRONMENT_PREFIX + "CONFIG",
    show_envvar=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _param, path: _read_config(ctx, path),
    help="A TOML file with settings; its keys are the flags' names with '_' for '-'.",
)
_POLICY_FLAGS: Mapping[str, Mapping[str, str]] = {
    "kid": {"metavar": "SCHEME", "help": f"Key id scheme: {', '.join(Scheme)}."},
    "rsa_algorithms": {"help": "Each RSA key is published once for each."},
    "eddsa": {"metavar": "NAME", "help": "'alg' of Ed25519 keys: EdDSA, or Ed25519 (RFC 9864)."},
    "x5c": {"help": "Publish the certificate chain."},
    "x5t": {"help": "Publish the certificate's SHA-1 thumbprint too."},
    "hexify_thumbprints": {"help": "Thumbprints as WSO2's switch has it."},
    "max_age": {"help": "Seconds that clients may keep a key set."},
    "stale_if_error": {"help": "Seconds for which caches may answer in the server's place while it fails; 0: none."},
    "not_yet_valid": {"metavar": "WHAT", "help": "Such certificates: publish or hide."},
    "expired": {"metavar": "WHAT", "help": "Such certificates: publish or hide."},
    "allow": {"help": f"Key types not all clients take: {', '.join(OPT_INS)}."},
    "aliases": {"help": "Publish only these entries of keystores."},
    "previous_kids": {"help": "Publish WSO2's older SHA-1 ids too."},
    "removal_grace": {"metavar": "TIME", "help": "How long a removed key stays, such as 24h."},
}
"""What the help says of each key of a policy: flag, type and default follow from the key and its default.

A default whose metavar is TIME is shown with its unit.
"""


def _policy_flag(key: str) -> Callable[[Command], Command]:
    """Return the flag of a policy's key; its default is the one that Policy has."""
    flag, options = f"--{key.replace('_', '-')}", _POLICY_FLAGS[key]
    match getattr(Policy(), key):
        case bool(default):
            return _setting(f"{flag}/--no-{flag.removeprefix('--')}", default=default, **options)
        case None:
            return _setting(flag, type=_ListType(), default=None, show_default="all", **options)
        case tuple(default):
            none = {} if default else {"show_default": "none"}
            return _setting(flag, type=_ListType(), default=",".join(default), **none, **options)
        case int(default) if options.get("metavar") == "TIME":
            return _setting(flag, default=f"{default}s", **options)
        case int(default):
            return _setting(flag, type=int, default=default, **options)
        case default:
            return _setting(flag, default=str(default), **options)


_POLICY = tuple(_policy_flag(key) for key in Policy.__dataclass_fields__)
_DELAYS: Mapping[str, tuple[str, str]] = {
    "handshake": ("--handshake-timeout", "Seconds that a TLS handshake may take."),
    "head": (
        "--head-timeout",
        "Seconds that a request's head may take, from its first byte or the connection's start.",
    ),
    "stalled": ("--stalled-timeout", "Seconds after which a client that reads nothing of its answer is cut off."),
    "keepalive": ("--keepalive-timeout", "Seconds that an idle connection is kept."),
}
"""The delays of `Timing` that are settings, and the flag of each."""
_CONNECTIONS = (
    _setting(
        "--max-connections",
        type=click.IntRange(1),
        default=config.MAX_CONNECTIONS,
        help="Open connections; beyond it the one idle for longest is closed.",
    ),
    _setting(
        "--max-connections-per-address",
        type=click.IntRange(0),
        default=config.MAX_CONNECTIONS_PER_ADDRESS,
        help="The same for one IPv4 address or IPv6 /64; 0: no limit.",
    ),
    *(
        _setting(
            flag, metavar="SECONDS", type=click.FloatRange(0, min_open=True), default=getattr(Timing(), name), help=text
        )
        for name, (flag, text) in _DELAYS.items()
    ),
)
_STATE_DIR_HELP = "Where keys under a removal grace are remembered.  [default: $STATE_DIRECTORY]"
_LIMITS = (
    _setting("--max-files", type=click.IntRange(1), default=1000, help="Key files of a tenant that are read."),
    _setting("--max-keys", type=click.IntRange(1), default=1000, help="Keys of a tenant that are published."),
)
_PASSWORDS = (
    _setting(
        "--password-dir",
        metavar="DIR",
        default=None,
        help="Folder of <tenant>.password files.  [default: $CREDENTIALS_DIRECTORY]",
    ),
    _setting(
        "--password-file",
        metavar="FILE",
        default=None,
        help="Password of keystores that have no other.  [default: $CREDENTIALS_DIRECTORY/keystore.password]",
    ),
)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _read_config(ctx: click.Context, path: str | None) -> None:
    if path is not None:
        known = {name for command in cli.commands.values() for name in _setting_names(command)}
        ctx.default_map = dict(config.read_file(path, known))


def _setting_names(command: click.Command) -> set[str]:
    return {
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and parameter.name
        and parameter.envvar
        and parameter.name != "config_file"
    }


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="jwks-server", prog_name="jwks-server")
def cli() -> None:
    """Publish the public keys in a tree of keystores as JSON Web Key Sets.

    Each folder keystores/<tenant>/ is a tenant; the certificates in it are its key set.
    """


@cli.command()
@_options(
    _setting("--keystores", metavar="DIR", required=True, help="The folder that holds a folder for each tenant."),
    _setting("--host", default="localhost", help="Name or address to listen on."),
    _setting("--port", type=click.IntRange(0, MAX_PORT), default=9443, help="Port to listen on; 0 takes a free one."),
    _setting("--port-offset", type=click.IntRange(0, MAX_PORT), default=0, help="Added to every port."),
    _setting("--http", is_flag=True, default=False, help="Serve plain HTTP, for use behind a proxy that does TLS."),
    _setting("--tls-cert", metavar="FILE", default=None, help="Certificate and its chain, PEM."),
    _setting("--tls-key", metavar="FILE", default=None, help="The certificate's private key, PEM without passphrase."),
    _setting("--super-tenant", type=_TenantType(), default=SUPER_TENANT, help="The tenant served at /oauth2/jwks."),
    _setting(
        "--media-type",
        type=click.Choice(config.MEDIA_TYPES),
        default=config.MEDIA_TYPES[0],
        help="Content-Type of key sets.",
    ),
    _setting("--state-dir", type=click.Path(path_type=Path), default=None, help=_STATE_DIR_HELP),
    _setting(
        "--admin-port",
        type=click.IntRange(0, MAX_PORT),
        default=None,
        help="Port on 127.0.0.1 for /livez, /readyz, /metrics and /tenants/<tenant>.json.  [default: none]",
    ),
    *_CONNECTIONS,
    _setting("--log-format", type=click.Choice(["text", "json"]), default="text", help="How log lines look."),
    _setting("--log-level", type=click.Choice(LEVELS), default="info", help="The least serious lines that are logged."),
    *_POLICY,
    *_LIMITS,
    *_PASSWORDS,
    _CONFIG,
)
def serve(**values: Any) -> None:  # noqa: ANN401 - one for each option above
    """Serve the key sets until SIGTERM.

    Each flag can also be given in the environment, by the name shown, or in the file that --config names. Flags win
    over the environment, the environment over the file.
    """
    from jwks_server.daemon.serve import serve as run_server  # noqa: PLC0415 - half a second to import

    run_server(settings_of(values))


def settings_of(values: Mapping[str, Any]) -> config.Settings:
    """Return the settings that the options of `serve` give."""
    plain = ("host", "http", "tls_cert", "tls_key", "super_tenant", "media_type", "log_format", "log_level")
    return config.Settings(
        keystores=Path(values["keystores"]),
        port=_shifted(values["port"], values["port_offset"]),
        admin_port=None if values["admin_port"] is None else _shifted(values["admin_port"], values["port_offset"]),
        state_dir=_state_dir(values),
        max_connections=values["max_connections"],
        max_connections_per_address=values["max_connections_per_address"],
        policy=_policy(values),
        passwords=_passwords(values),
        limits=Limits(values["max_files"], values["max_keys"]),
        timing=Timing(**{name: values[_name(flag)] for name, (flag, _) in _DELAYS.items()}),
        **{name: values[name] for name in plain},
    )


@cli.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_options(*_POLICY, *_LIMITS, *_PASSWORDS, _CONFIG)
def check(directory: str, *, as_json: bool, **values: Any) -> int:  # noqa: ANN401
    """Load the tree DIR as the server would, and print what each file gives.

    Exit code 1 says that something in the tree has a problem.
    """
    return check_tree(_source(directory, values), as_json=as_json)


@cli.command()
@click.argument("directory", metavar="DIR")
@click.argument("tenant", type=_TenantType())
@_options(*_POLICY, *_LIMITS, *_PASSWORDS, _CONFIG)
def show(directory: str, tenant: TenantName, **values: Any) -> int:  # noqa: ANN401
    """Print the key set of TENANT in the tree DIR as it would be served."""
    return show_tenant(_source(directory, values), tenant)


@cli.command()
@click.argument("directory", metavar="DIR")
@click.argument("tenant", type=_TenantType())
@click.argument("key_id", metavar="KID")
@click.option("--force", is_flag=True, help="Revoke a key id that is not published now.")
@_options(
    _setting("--state-dir", type=click.Path(path_type=Path), default=None, help=_STATE_DIR_HELP),
    *_POLICY,
    *_LIMITS,
    *_PASSWORDS,
    _CONFIG,
)
def revoke(directory: str, tenant: TenantName, key_id: str, *, force: bool, **values: Any) -> int:  # noqa: ANN401
    """Never publish the key KID of TENANT in the tree DIR again.

    Appends to the tenant's file `revoked`, which the server obeys at once, and over any removal grace. Relying parties
    may keep the key until their copy of the set is too old.
    """
    return revoke_key(_source(directory, values), tenant, key_id, _state_dir(values), force=force)


def _shifted(port: int, offset: int) -> int:
    """Return the port with the offset; 0 stays 0 and takes a free port."""
    shifted = port + offset if port else 0
    if shifted > MAX_PORT:
        raise SettingsError(f"port {port} with offset {offset} is {shifted}, above {MAX_PORT}")
    return shifted


def _state_dir(values: Mapping[str, Any]) -> Path | None:
    """Return the setting, or the first directory that systemd made for the state."""
    of_service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    directory: Path | None = values["state_dir"]
    return directory or (Path(of_service) if of_service else None)


def _source(directory: str, values: Mapping[str, Any]) -> Source:
    limits = Limits(values["max_files"], values["max_keys"], UNHURRIED)
    return Source(str(Path(directory).absolute()), _passwords(values), _policy(values), limits=limits)


def _policy(values: Mapping[str, Any]) -> Policy:
    keys = [parameter for parameter in Policy.__dataclass_fields__ if values[parameter] is not None]
    try:
        return Policy().updated({key: values[key] for key in keys})
    except PolicyError as error:
        raise SettingsError(str(error)) from error


def _passwords(values: Mapping[str, Any]) -> PasswordSources:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    of_server = values["password_file"] or (credentials and str(Path(credentials, "keystore.password")))
    return PasswordSources(values["password_dir"] or credentials, of_server)


def main() -> None:
    """Run the command line; every expected failure is one line on standard error and exit code 2."""
    try:
        sys.exit(cli.main(prog_name="jwks-server", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message())
    except JwksServerError as error:
        _fail(str(error))


def _fail(text: str) -> None:
    complain(text)
    sys.exit(2)

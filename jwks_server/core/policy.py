"""What is published of a tenant's keys, and under which id and algorithm."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from jwks_server.core.errors import PolicyError
from jwks_server.core.jwk import RSASSA_PKCS1, RSASSA_PSS, Key, PublicKey
from jwks_server.core.kid import Scheme
from jwks_server.core.text import readable

RSA_ALGORITHMS = RSASSA_PKCS1 + RSASSA_PSS
MAX_AGE_LIMIT = 31_536_000
MAX_BYTES = 64 << 10
"""How long a policy file may be."""

MAX_LINE = 1000
"""How many characters a line of it may have."""

OPT_INS = ("ES256K", "Ed448", "ML-DSA")

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)?", re.ASCII)
_UNIT_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class OutOfValidity(StrEnum):
    """What happens to a certificate outside its validity period."""

    PUBLISH = "publish"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Policy:
    """A tenant's policy; the defaults are what WSO2 Identity Server does. Times are in seconds."""

    kid: Scheme = Scheme.WSO2
    rsa_algorithms: tuple[str, ...] = ("RS256",)
    eddsa: str = "EdDSA"
    x5c: bool = True
    x5t: bool = False
    hexify_thumbprints: bool = False
    max_age: int = 300
    stale_if_error: int = 3600
    not_yet_valid: OutOfValidity = OutOfValidity.PUBLISH
    expired: OutOfValidity = OutOfValidity.PUBLISH
    allow: tuple[str, ...] = ()
    aliases: tuple[str, ...] | None = None
    previous_kids: bool = False
    removal_grace: int = 0

    def updated(self, values: Mapping[str, object]) -> "Policy":
        """Return this policy with `values`, as TOML gives them, put in; raise PolicyError naming key and value."""
        unknown = sorted(values.keys() - RULES.keys())
        if unknown:
            raise PolicyError(f"unknown key {unknown[0]!r}; the keys are: {', '.join(RULES)}")
        policy = replace(self, **{key: RULES[key](key, value) for key, value in values.items()})
        if len(policy.rsa_algorithms) > 1 and not policy.kid.names_algorithm:
            raise PolicyError(
                f"kid = {policy.kid.value!r} does not name the algorithm, so rsa_algorithms can hold one only, not "
                f"{list(policy.rsa_algorithms)}; allowed with several: kid = 'wso2' or 'wso2-sha1'",
            )
        return policy


def parse_policy(text: str, defaults: Policy) -> Policy:
    """Return the defaults as a policy file changes them; raise PolicyError with what is wrong in it."""
    # One name of many thousand dots costs the parser the square of their number.
    if any(len(line) > MAX_LINE for line in text.splitlines()):
        raise PolicyError(f"a line longer than {MAX_LINE} characters")
    try:
        return defaults.updated(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(str(error)) from error
    except RecursionError:
        raise PolicyError("nested too deeply") from None


def algorithms(key: Key, policy: Policy) -> tuple[str, ...]:
    """Return the algorithms to publish the key with, the first preferred; never empty.

    An RSA key gets those the policy lists that it can be used with, else the first it can be used with; a JWK that
    states its algorithm gets that one, and one that states only its id gets one, for ids are unique.
    """
    public = key.public
    if key.stated_alg is not None:
        return (key.stated_alg,)
    match public.kty:
        case "RSA":
            usable = tuple(alg for alg in policy.rsa_algorithms if alg in public.algorithms) or public.algorithms[:1]
            return usable[:1] if key.stated_kid is not None else usable
        case "OKP":
            return (policy.eddsa if policy.eddsa == "EdDSA" else _curve(public),)
        case _:
            return public.algorithms[:1]


def _curve(public: PublicKey) -> str:
    return dict(public.members)["crv"]


def _choice(*allowed: str) -> Callable[[str, object], str]:
    def check(key: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(key, value, " or ".join(repr(str(one)) for one in allowed))
        return value

    return check


def _choices(*allowed: str, least: int) -> Callable[[str, object], tuple[str, ...]]:
    def check(key: str, value: object) -> tuple[str, ...]:
        items = _strings(key, value, f"a list of {', '.join(allowed)}")
        if len(items) < least or any(item not in allowed for item in items):
            raise _wrong(key, value, f"a list of {', '.join(allowed)}")
        return tuple(dict.fromkeys(items))

    return check


def _aliases(key: str, value: object) -> tuple[str, ...]:
    # Java lower-cases the aliases of its keystores.
    return tuple(dict.fromkeys(item.lower() for item in _strings(key, value, "a list of entry names")))


def _strings(key: str, value: object, allowed: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(key, value, allowed)
    items = tuple(item for item in value if isinstance(item, str) and item == readable(item))
    if len(items) != len(value):
        raise _wrong(key, value, allowed)
    return items


def _switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _seconds(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_AGE_LIMIT:
        raise _wrong(key, value, f"whole seconds from 0 to {MAX_AGE_LIMIT}")
    return value


def _duration(key: str, value: object) -> int:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        value = int(match[1]) * _UNIT_SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_AGE_LIMIT:
        raise _wrong(key, value, "a time such as '0s', '90m', '24h' or '7d', at most 365 days")
    return value


def _wrong(key: str, value: object, allowed: str) -> PolicyError:
    return PolicyError(f"{key} = {_shown(value)} is not allowed; allowed: {allowed}")


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004


RULES: Mapping[str, Callable[[str, object], Any]] = {
    "kid": lambda key, value: Scheme(_choice(*Scheme)(key, value)),
    "rsa_algorithms": _choices(*RSA_ALGORITHMS, least=1),
    "eddsa": _choice("EdDSA", "Ed25519"),
    "x5c": _switch,
    "x5t": _switch,
    "hexify_thumbprints": _switch,
    "max_age": _seconds,
    "stale_if_error": _seconds,
    "not_yet_valid": lambda key, value: OutOfValidity(_choice(*OutOfValidity)(key, value)),
    "expired": lambda key, value: OutOfValidity(_choice(*OutOfValidity)(key, value)),
    "allow": _choices(*OPT_INS, least=0),
    "aliases": _aliases,
    "previous_kids": _switch,
    "removal_grace": _duration,
}
"""Each key of a policy and the check of its value; the keys are exactly the fields of Policy."""

assert RULES.keys() == {field.name for field in fields(Policy)}  # noqa: S101 - a slip of ours, found at import

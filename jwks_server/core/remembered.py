"""A tenant's record: its published keys and its policy as a small text, which the state directory keeps over a restart.

The keys are parsed by the same code as key files, as certificates or JWKs: what the text holds is checked like any
other input, and no private member can come back.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from jwks_server.core import formats
from jwks_server.core.errors import JwksServerError, KeyFileError
from jwks_server.core.formats.certificates import load_der, public_key, tolerating_oddities
from jwks_server.core.jwk import Key, key_of
from jwks_server.core.lifecycle import Moment, Owed, key_identity
from jwks_server.core.policy import Policy
from jwks_server.core.publication import Record
from jwks_server.core.snapshot import Remembered, Snapshot
from jwks_server.core.text import readable

_VERSION = 1


def worth_remembering(snapshot: Snapshot) -> tuple[object, ...]:
    """Return what of the snapshot is remembered, for comparing with an earlier one; empty where there is no grace.

    The keys are those that are published; a key that is revoked or hidden must not come back by its grace.
    """
    if snapshot.policy.value.removal_grace == 0:
        return ()
    return snapshot.policy.value, *_owed(snapshot)


def record_of(
    snapshot: Snapshot, previous: Snapshot | None, remembered: Remembered | None, now: Moment
) -> Record | None:
    """Return what of the snapshot has to outlive the process, or None.

    There is nothing to record where the policy has no grace or is not known, and where the tenant is gone.

    `previous` and `remembered` tell which of its keys are new.
    """
    worth = worth_remembering(snapshot)
    if not worth or snapshot.gone or not snapshot.policy.known:
        return None
    known = {key_identity(owed.key) for owed in remembered.keys} if remembered else set()
    if previous is not None and worth_remembering(previous):
        known |= {key_identity(owed.key) for owed in _owed(previous)}
    return Record(
        text=to_text(snapshot, now),
        digest=hashlib.blake2b(repr(worth).encode("utf-8", "surrogateescape"), digest_size=16).digest(),
        adds_keys=any(key_identity(owed.key) not in known for owed in _owed(snapshot)),
    )


def to_text(snapshot: Snapshot, now: Moment) -> bytes:
    """Return a tenant's record. Deadlines are on the wall clock: the steady one starts anew when the machine boots."""
    keys = [
        {
            "file": owed.file_name,
            "alias": owed.key.alias,
            "until": None if owed.until == inf else (now.wall + timedelta(seconds=owed.until - now.steady)).isoformat(),
            **_key(owed.key),
        }
        for owed in _owed(snapshot)
    ]
    memory = {"version": _VERSION, "policy": asdict(snapshot.policy.value), "keys": keys}
    return json.dumps(memory).encode("ascii")


def from_text(text: bytes, now: Moment) -> Remembered:
    """Return what a tenant's record says; raise KeyFileError where the text is not one that `to_text` wrote."""
    try:
        memory = json.loads(text.decode("ascii", "replace"))
        if memory["version"] != _VERSION:
            raise KeyFileError(f"of version {memory['version']}, not {_VERSION}")
        values = {key: value for key, value in memory["policy"].items() if value is not None}
        with tolerating_oddities():
            return Remembered(Policy().updated(values), tuple(_restored(key, now) for key in memory["keys"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KeyFileError("damaged") from error
    except JwksServerError as error:
        raise KeyFileError(f"damaged: {error}") from error


def without_keys(text: bytes, others: Iterable[bytes], now: Moment) -> bytes:
    """Return a tenant's record without the keys that other records of the tenant hold."""
    known = {key_identity(owed.key) for other in others for owed in from_text(other, now).keys}
    memory = json.loads(text)
    pairs = zip(memory["keys"], from_text(text, now).keys, strict=True)
    memory["keys"] = [item for item, owed in pairs if key_identity(owed.key) not in known]
    return json.dumps(memory).encode("ascii")


def _owed(snapshot: Snapshot) -> Iterator[Owed]:
    if snapshot.rules_unknown:
        yield from snapshot.owed  # they are not published now, and may be again
        return
    published = {key.identity for key in snapshot.published}
    current = (Owed(file.name, key, inf) for file in snapshot.files for key in file.keys)
    for owed in (*current, *snapshot.owed):
        if key_identity(owed.key) in published:
            yield owed


def _key(key: Key) -> dict[str, object]:
    jwk: dict[str, object] = {"kty": key.public.kty, **dict(key.public.members)}
    if key.public.kty == "AKP":
        jwk["alg"] = key.public.algorithms[0]
    stated = {"kid": key.stated_kid, "alg": key.stated_alg}
    return {
        "jwk": {**jwk, **{name: value for name, value in stated.items() if value is not None}},
        "algorithms": key.public.algorithms,
        "x5c": [b64encode(der).decode("ascii") for der in key.chain],
    }


def _restored(item: Mapping[str, object], now: Moment) -> Owed:
    (entry,) = formats.read(json.dumps(item["jwk"]).encode("utf-8")).entries
    chain = tuple(load_der(b64decode(der, validate=True)) for der in _list(item["x5c"]))
    if chain and public_key(chain[0]) != entry.public_key:
        raise KeyFileError("a certificate of another key")
    key = _narrowed(key_of(replace(entry, chain=chain, alias=_text_or_none(item["alias"]))), _list(item["algorithms"]))
    until = inf
    if item["until"] is not None:
        until = now.steady + (datetime.fromisoformat(str(item["until"])) - now.wall).total_seconds()
    return Owed(readable(str(item["file"])), key, until)  # older versions wrote a name as the file system gave it


def _narrowed(key: Key, algorithms: list[Any]) -> Key:
    """Return the key for these algorithms only: a JWK does not say that a key is for RSASSA-PSS alone."""
    usable = tuple(alg for alg in key.public.algorithms if alg in algorithms)
    if not usable or (key.stated_alg is not None and key.stated_alg not in usable):
        raise KeyFileError("a key without an algorithm")
    return replace(key, public=replace(key.public, algorithms=usable))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise KeyFileError("not a list")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)

"""Where everything that is published comes from, as one value."""

import os
from dataclasses import dataclass, field

from jwks_server.core.policy import Policy
from jwks_server.reading.passwords import Passwords, PasswordSources


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one tenant is read: key files, keys of its set with those that are owed, and how long in one turn.

    A turn ends after the file that it is at when its seconds are over; the rest is read in later turns.
    """

    files: int = 1000
    keys: int = 1000
    turn_seconds: float = 0.1


UNHURRIED = 1e9
"""Turn seconds of a command, which reads for nobody else."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where keys and their passwords come from, and the policy of tenants that state none.

    `exact_times` says that the tree's file system tells any two states of a file apart by their times. `stamp_key` keys
    the digests of contents and passwords that tell whether a file was read before. What is `closed` no reader process
    can open: secrets and state, which may lie anywhere.
    """

    root: str
    passwords: Passwords = PasswordSources()
    defaults: Policy = Policy()
    exact_times: bool = False
    limits: Limits = Limits()
    closed: tuple[str, ...] = ()
    stamp_key: bytes = field(default_factory=lambda: os.urandom(32), repr=False, compare=False)

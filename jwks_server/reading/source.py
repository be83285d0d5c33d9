"""Where everything that is published comes from, as one value that each reader process is told once, at its start."""

from dataclasses import dataclass

from jwks_server.core.policy import Policy
from jwks_server.reading.passwords import PasswordSources


@dataclass(frozen=True, slots=True)
class Source:
    """Where keys and their passwords come from, and the policy of tenants that state none.

    `exact_times` says that the tree's file system tells any two states of a file apart by their times.
    """

    root: str
    passwords: PasswordSources = PasswordSources()
    defaults: Policy = Policy()
    exact_times: bool = False

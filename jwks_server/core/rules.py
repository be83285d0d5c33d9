"""A tenant's rules, its policy and its list of revoked keys: the last good one where the file is faulty or gone."""

from dataclasses import replace
from typing import TypeVar

from jwks_server.core.errors import KeyFileError, PolicyError
from jwks_server.core.policy import Policy, parse_policy
from jwks_server.core.revoked import parse_revoked
from jwks_server.core.snapshot import Folder, Level, Problem, Settled, Snapshot
from jwks_server.core.tenant import POLICY_FILE, REVOKED_FILE
from jwks_server.core.text import readable

T = TypeVar("T")


def policy_in_force(
    folder: Folder, past: Snapshot, defaults: Policy, now: float, settle_seconds: float
) -> tuple[Settled[Policy], list[Problem]]:
    """Return the policy in force: the file's, else the last good one; without a file, the server's.

    Where the whole folder is gone, the last policy stays in force: its grace says how long the keys are still owed.
    """
    last = past.policy
    if folder.fault is not None or not folder.present:
        return replace(last, missing_since=None), []
    if folder.policy.text is None and folder.policy.fault is None:
        return _without_file(last, defaults, now, settle_seconds, was_faulty=past.rules_unknown), []
    fault = folder.policy.fault
    if fault is None:
        try:
            return Settled(parse_policy(folder.policy.text or "", defaults), known=True), []
        except PolicyError as error:
            fault = str(error)
    if not last.known:
        consequence = "nothing is published until it is corrected, because the tenant's policy is not known"
    elif last.value == defaults:
        consequence = "the server's policy is in force"
    else:
        consequence = "the last good policy is in force"
    return replace(last, missing_since=None), [Problem(Level.FAULT, readable(f"{fault}; {consequence}"), POLICY_FILE)]


def revoked_in_force(
    folder: Folder, past: Snapshot, now: float, settle_seconds: float
) -> tuple[Settled[frozenset[str]], list[Problem]]:
    """Return the names of revoked keys; a list that cannot be read revokes what it last did."""
    last = past.revoked
    if folder.fault is not None or not folder.present:
        return replace(last, missing_since=None), []
    names, fault = frozenset[str](), folder.revoked.fault
    try:
        names = parse_revoked(folder.revoked.text or "")
    except KeyFileError as error:
        fault = str(error)
    if fault is not None:
        if not last.known:
            fault += "; nothing is published until it can be read, because the tenant's revoked keys are not known"
        return replace(last, missing_since=None), [Problem(Level.FAULT, fault, REVOKED_FILE)]
    if names:
        return Settled(names, known=True), []
    return _without_file(last, frozenset(), now, settle_seconds, was_faulty=past.rules_unknown), []


def _without_file(last: Settled[T], default: T, now: float, settle_seconds: float, *, was_faulty: bool) -> Settled[T]:
    """Return the last value until its file was missing for the settling time, then the default.

    Editors remove a file for a moment when they save it. `was_faulty` says that the last value may be a stand-in.
    """
    if last.value == default and (last.known or not was_faulty):
        return Settled(default, known=True)
    since = last.missing_since if last.missing_since is not None else now
    return replace(last, missing_since=since) if now - since < settle_seconds else Settled(default, known=True)

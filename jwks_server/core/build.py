"""Files, the previous snapshot, the policy and the time make a tenant's snapshot, with its problems.

Building never fails: what is wrong with a file is a problem in the snapshot, and the keys that the file last gave stay.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf

from jwks_server.core import formats
from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.jwk import Key, key_of
from jwks_server.core.keyset import COMMON_CLIENT_BYTES, SMALL_CLIENT_BYTES, KeySet, PublishedKey, compile_set
from jwks_server.core.lifecycle import KeyFile, Moment, NextChange, Owed, key_identity, owed_after
from jwks_server.core.policy import Policy
from jwks_server.core.rules import policy_in_force, revoked_in_force
from jwks_server.core.selection import Selection, published_keys
from jwks_server.core.snapshot import Folder, Level, Problem, Remembered, Settled, Snapshot
from jwks_server.core.tenant import TenantName
from jwks_server.core.text import readable

Members = tuple[tuple[PublishedKey, str], ...]

SETTLE_SECONDS = 0.025
"""A file must be missing for so long before its removal counts: a git checkout unlinks and creates within 4 ms."""


def read_key_file(name: str, stamp: bytes, data: bytes, password: formats.Password | None) -> KeyFile:
    """Return the keys in a file's bytes; raise KeyFileError where nothing in it can be used."""
    contents = formats.read(data, password)
    keys: list[Key] = []
    refusals = [readable(refusal) for refusal in contents.refusals]
    for entry in contents.entries:
        try:
            keys.append(key_of(entry))
        except UnsupportedKeyError as refusal:
            refusals.append(readable(f"entry {entry.alias!r}: {refusal}" if entry.alias else str(refusal)))
    if refusals and not keys:
        raise KeyFileError("; ".join(refusals))
    return KeyFile(name, stamp, contents.container, tuple(keys), (), tuple(refusals), contents.notices)


def faulty_key_file(  # noqa: PLR0913 - what a KeyFile has
    name: str,
    fault: str,
    previous: KeyFile | None,
    *,
    stamp: bytes = b"",
    container: str = "",
    is_passing: bool = False,
) -> KeyFile:
    """Return the file with the keys it last gave, and what is wrong with it now."""
    keys = previous.keys if previous else ()
    return KeyFile(name, stamp, container, keys, (readable(fault),), is_passing=is_passing)


def build(  # noqa: PLR0913 - the seven things that decide what a tenant publishes
    tenant: TenantName,
    folder: Folder,
    previous: Snapshot | None,
    defaults: Policy,
    now: Moment,
    *,
    remembered: Remembered | None = None,
    settle_seconds: float = SETTLE_SECONDS,
    most_keys: int | None = None,
) -> Snapshot:
    """Return the tenant's snapshot; its set holds at most `most_keys` members.

    `remembered` is what was published before the server started. Where it comes later than the first load, its keys
    count, and its policy only while none of the tenant's own is known.
    """
    problems = [] if folder.fault is None else [Problem(Level.FAULT, folder.fault)]
    past = _past(tenant, previous, defaults, remembered)
    settle = settle_seconds if previous else 0.0  # what the first load does not find was removed before it
    policy, policy_problems = policy_in_force(folder, past, defaults, now.steady, settle)
    revoked, revoked_problems = revoked_in_force(folder, past, now.steady, settle)
    # While the folder cannot be read, nothing changes: a withheld tenant stays withheld, a published one published.
    is_seen = folder.fault is None and folder.present
    rules_unknown = not (policy.known and revoked.known) if is_seen else past.rules_unknown
    files = folder.files if folder.fault is None else past.files
    # Nothing is published before each file was read once: a part would lack keys that were published before the start.
    is_first_pass = previous is None or previous.being_read
    has_new = folder.unfinished is not None and folder.unfinished.has_new
    being_read = is_first_pass and has_new if is_seen else past.being_read
    unpublished = rules_unknown or being_read
    # While the folder or its rules cannot be read, nobody can tell which keys were removed: no deadline is set then.
    in_doubt = folder.fault is not None or (unpublished and folder.present)
    grace = inf if in_doubt else max(policy.value.removal_grace, settle)
    # A withheld key was never published, so its removal leaves nothing owed. While the rules are unknown, a key that
    # was owed before stays owed, even if a file gives it again.
    before = (
        () if past.rules_unknown or past.being_read else ((file.name, key) for file in past.files for key in file.keys)
    )
    owed = owed_after(before, past.owed, () if unpublished else files, now.steady, grace)

    selection = Selection(policy.value, revoked.value, now)
    members, clashes = ((), []) if unpublished else _members(selection, files, owed, policy.value, past.published)

    members, surplus_problems = _limited(members, past.published, most_keys)
    if surplus_problems:
        # A debt that has no place in the set would only make the snapshot grow.
        kept = {published.identity for published, _ in members}
        owed = tuple(debt for debt in owed if key_identity(debt.key) in kept)
    problems += surplus_problems
    problems += policy_problems + revoked_problems + list(_file_problems(files)) + selection.problems + clashes
    faulty = any(problem.level is Level.FAULT for problem in problems)
    vacant = not files and not owed and not faulty and not being_read
    withheld = unpublished or (faulty and not selection.eligible)
    if being_read:
        problems.append(
            Problem(Level.NOTICE, "its files are being read; nothing is published until each was read once")
        )
    if folder.surplus:
        text = f"{folder.surplus} key files more than are read; remove some, or raise --max-files"
        problems.append(Problem(Level.FAULT, text))
    key_set = None if vacant or withheld else compile_set(members, policy.value)
    if key_set is not None:
        problems += _set_problems(key_set, len(members))
    return Snapshot(
        tenant=tenant,
        present=folder.present or folder.fault is not None,
        files=files,
        owed=owed,
        policy=policy,
        revoked=revoked,
        published=tuple(published for published, _ in members),
        key_set=key_set,
        vacant=vacant,
        rules_unknown=rules_unknown,
        unfinished=folder.unfinished if is_seen else past.unfinished,
        being_read=being_read,
        problems=tuple(dict.fromkeys(problems)),
        next_change=NextChange(
            selection.next_change, min((debt.until for debt in owed if debt.until < inf), default=None)
        ),
        look_again=NextChange(
            selection.next_remark,
            min(
                (s.missing_since + settle for s in (policy, revoked) if s.missing_since is not None),
                default=None,
            ),
        ),
    )


def _past(tenant: TenantName, previous: Snapshot | None, defaults: Policy, remembered: Remembered | None) -> Snapshot:
    """Return what is known of the tenant so far, with what is remembered from before the start."""
    if previous is None:
        return _before_the_start(tenant, defaults, remembered)
    if remembered is None:
        return previous
    policy = previous.policy if previous.policy.known else Settled(remembered.policy, known=True)
    return replace(previous, owed=previous.owed + remembered.keys, policy=policy)


def _before_the_start(tenant: TenantName, defaults: Policy, remembered: Remembered | None) -> Snapshot:
    """Return what the tenant's record says as the snapshot of a folder that was not read yet."""
    return Snapshot(
        tenant,
        present=True,
        files=(),
        owed=remembered.keys if remembered else (),
        policy=Settled(remembered.policy, known=True) if remembered else Settled(defaults, known=False),
        revoked=Settled(frozenset(), known=False),
        published=(),
        key_set=None,
        vacant=False,
        rules_unknown=False,
        unfinished=None,
        being_read=False,
        problems=(),
        next_change=NextChange(),
        look_again=NextChange(),
    )


def _members(
    selection: Selection,
    files: Iterable[KeyFile],
    owed: Iterable[Owed],
    policy: Policy,
    before: Iterable[PublishedKey],
) -> tuple[Members, list[Problem]]:
    """Return the members of the set, each with its JSON, and what is wrong with their ids."""
    given = [(file.name, key) for file in files for key in file.keys if selection.takes(file.name, key)]
    still = [(debt.file_name, debt.key) for debt in owed if selection.takes(debt.file_name, debt.key)]
    selection.warn_of_unseen_aliases()
    return published_keys(given, still, policy, before)


def _limited(members: Members, before: Iterable[PublishedKey], most: int | None) -> tuple[Members, list[Problem]]:
    """Return no more than `most` members, those first that were published before; and what is left out."""
    if most is None or len(members) <= most:
        return members, []
    was = {key.kid for key in before}
    kept = sorted(members, key=lambda member: member[0].kid not in was)[:most]
    left_out = f"{len(members) - most} keys more than the {most} that are published; remove some, or raise --max-keys"
    return tuple(kept), [Problem(Level.FAULT, left_out)]


def _file_problems(files: Iterable[KeyFile]) -> Iterator[Problem]:
    for file in files:
        for fault in file.faults:
            yield Problem(Level.FAULT, f"{fault}; its last good keys stay" if file.keys else fault, file.name)
        for refusal in file.refusals:
            yield Problem(Level.FAULT, refusal, file.name)
        for notice in file.notices:
            yield Problem(Level.NOTICE, notice, file.name)


def _set_problems(key_set: KeySet, keys: int) -> list[Problem]:
    if not keys:
        why = "its key files give no signing key, or the policy or the list of revoked keys leaves out each"
        return [Problem(Level.WARNING, f"an empty set is published: {why}")]
    size = len(key_set.body)
    for limit, who in (
        (COMMON_CLIENT_BYTES, "Nimbus refuses it"),
        (SMALL_CLIENT_BYTES, "mod_oauth2 does not cache it"),
    ):
        if size > limit:
            return [Problem(Level.WARNING, f"the set has {size} bytes, more than {limit}: {who}; remove old keys")]
    return []

"""Which of the keys that a tenant's files offer are published, and under which unique ids."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from jwks_server.core.jwk import Key
from jwks_server.core.keyset import PublishedKey, jwk_json
from jwks_server.core.kid import Scheme, identifiers, key_id, stem
from jwks_server.core.lifecycle import Moment, hidden, key_identity, next_visibility_change, out_of_validity
from jwks_server.core.policy import Policy, algorithms
from jwks_server.core.snapshot import Level, Problem
from jwks_server.core.tenant import POLICY_FILE


class Selection:
    """Decides key by key what the policy and the list of revoked keys let through, and notes why not."""

    def __init__(self, policy: Policy, revoked: frozenset[str], now: Moment) -> None:
        self.problems: list[Problem] = []
        self.eligible = False
        self.next_change: datetime | None = None
        self.next_remark: datetime | None = None
        self._unseen_aliases = set(policy.aliases or ())
        self._policy = policy
        self._revoked = revoked
        self._now = now.wall

    def takes(self, file_name: str, key: Key) -> bool:
        """Tell whether the key is to be published now."""
        policy = self._policy
        opt_in = key.public.opt_in
        if opt_in is not None and opt_in not in policy.allow:
            self._say(
                Level.FAULT,
                f"{opt_in} key is not published: add {opt_in!r} to 'allow' if all clients take it",
                file_name,
            )
            return False
        self.eligible = True
        if policy.aliases is not None and key.alias is not None:
            if key.alias.lower() not in policy.aliases:
                return False
            self._unseen_aliases.discard(key.alias.lower())
        if self._is_revoked(file_name, key):
            self._say(Level.NOTICE, "holds a revoked key, which is not published", file_name)
            return False
        return self._takes_by_time(file_name, key)

    def warn_of_unseen_aliases(self) -> None:
        """Say which entries the policy names and no keystore has, after the last key was taken or not."""
        for alias in sorted(self._unseen_aliases):
            text = f"'aliases' names {alias!r}, which no keystore of this tenant has"
            self.problems.append(Problem(Level.WARNING, text, POLICY_FILE))

    def _is_revoked(self, file_name: str, key: Key) -> bool:
        if not self._revoked:
            return False
        by_file = {stem(file_name)} if self._policy.kid is Scheme.FILENAME else set()
        return not self._revoked.isdisjoint(identifiers(key) | by_file)

    def _takes_by_time(self, file_name: str, key: Key) -> bool:
        for warning in key.warnings:
            self._say(Level.WARNING, warning, file_name)
        is_hidden = hidden(key, self._policy, self._now)
        if remark := out_of_validity(key, self._now):
            self._say(Level.WARNING, f"{remark}; {'hidden' if is_hidden else 'still published'}", file_name)
        self.next_change = _earliest(self.next_change, next_visibility_change(key, self._policy, self._now))
        for bound in (key.not_before, key.not_after):
            if bound is not None and bound >= self._now:
                self.next_remark = _earliest(self.next_remark, bound)
        return not is_hidden

    def _say(self, level: Level, text: str, file_name: str) -> None:
        self.problems.append(Problem(level, text, file_name))


def published_keys(
    chosen: Iterable[tuple[str, Key]], policy: Policy, before: Iterable[PublishedKey]
) -> tuple[tuple[PublishedKey, ...], list[Problem]]:
    """Return the members of the set with unique ids: the same key twice is one, and where two claim an id one stays.

    What was published under the id stays; where nothing was, the first file by name has it.
    """
    was = {key.kid: key.identity for key in before}
    taken: dict[str, PublishedKey] = {}
    problems: list[Problem] = []
    for file_name, key in sorted(chosen, key=lambda pair: (pair[0], -len(pair[1].chain), pair[1].public.members)):
        for candidate in _candidates(file_name, key, policy):
            holder = taken.setdefault(candidate.kid, candidate)
            if holder.identity[:2] == candidate.identity[:2]:
                if len(key.chain) and not holder.identity[2]:
                    taken[candidate.kid] = candidate
                continue
            if was.get(candidate.kid) == candidate.identity and was.get(candidate.kid) != holder.identity:
                taken[candidate.kid], loser, keeper = candidate, holder, candidate
            else:
                loser, keeper = candidate, holder
            problems.append(_clash(loser, keeper))
    return tuple(taken.values()), problems


def _clash(loser: PublishedKey, keeper: PublishedKey) -> Problem:
    where = "in the same file" if loser.file_name == keeper.file_name else f"in {keeper.file_name}"
    return Problem(
        Level.FAULT,
        f"its key id {loser.kid!r} is that of another key {where}, which stays published; give one another id",
        loser.file_name,
    )


def _candidates(file_name: str, key: Key, policy: Policy) -> Iterator[PublishedKey]:
    """Return the members that one key makes: one an algorithm, and WSO2's older ids where they are asked for."""
    algs = algorithms(key, policy)
    names = [(key_id(policy.kid, key, alg, file_name, several=len(algs) > 1), alg, False) for alg in algs]
    if policy.previous_kids and key.chain and key.stated_kid is None:
        names += [(key_id(Scheme.WSO2_SHA1, key, alg, file_name, several=True), alg, False) for alg in algs]
        if key.public.kty == "RSA":
            bare, _, _ = key_id(Scheme.WSO2_SHA1, key, algs[0], file_name, several=True).rpartition("_")
            names.append((bare, algs[0], True))
    for kid, alg, is_bare in names:
        yield PublishedKey(
            kid,
            alg,
            key.public.kty,
            jwk_json(key, kid, alg, policy, bare=is_bare),
            key_identity(key),
            file_name,
            key.not_after,
        )


def _earliest(first: datetime | None, second: datetime | None) -> datetime | None:
    moments = [moment for moment in (first, second) if moment is not None]
    return min(moments, default=None)

"""Which of the keys that a tenant's files offer are published, and under which unique ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from jwks_server.core.jwk import Key, PublicKey
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
        """Warn of entries that the policy names and no keystore has. Call it after `takes` was asked of every key."""
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


@dataclass(frozen=True, slots=True)
class _Claim:
    """A key's claim to an id; `bare` says that its JWK leaves out the certificate."""

    published: PublishedKey
    key: Key
    bare: bool

    @property
    def public(self) -> PublicKey:
        return self.key.public


def published_keys(
    given: Iterable[tuple[str, Key]], owed: Iterable[tuple[str, Key]], policy: Policy, before: Iterable[PublishedKey]
) -> tuple[tuple[tuple[PublishedKey, str], ...], list[Problem]]:
    """Return the members of the set, each with its JSON, under unique ids: the same key twice is one.

    Of two keys of files that claim one id, the one that was published under it stays; where none was, the first file
    by name has it. A key that is only owed loses its id to any key of a file: its file's new key may claim it.
    """
    was = {key.kid: key.identity for key in before}
    holders: dict[str, _Claim] = {}
    problems: list[Problem] = []
    for claim in _claims(given, policy):
        holder = holders.setdefault(claim.published.kid, claim)
        if holder.public == claim.public:
            if claim.key.chain and not holder.key.chain:
                holders[claim.published.kid] = claim
            continue
        if was.get(claim.published.kid) == claim.published.identity:
            holders[claim.published.kid] = claim
            problems.append(_clash(holder.published, claim.published))
        else:
            problems.append(_clash(claim.published, holder.published))
    for claim in _claims(owed, policy):
        holders.setdefault(claim.published.kid, claim)
    members = ((claim.published, claim) for claim in holders.values())
    return tuple(
        (published, jwk_json(claim.key, published.kid, published.alg, policy, bare=claim.bare))
        for published, claim in members
    ), problems


def _clash(loser: PublishedKey, keeper: PublishedKey) -> Problem:
    where = "in the same file" if loser.file_name == keeper.file_name else f"in {keeper.file_name}"
    return Problem(
        Level.FAULT,
        f"its key id {loser.kid!r} is that of another key {where}, which stays published; give one another id",
        loser.file_name,
    )


def _claims(keys: Iterable[tuple[str, Key]], policy: Policy) -> Iterator[_Claim]:
    """Yield the claims of all keys in an order that depends on nothing but them."""
    for file_name, key in sorted(keys, key=lambda pair: (pair[0], -len(pair[1].chain), pair[1].public.members)):
        identity = key_identity(key)
        for kid, alg, bare in _names(file_name, key, policy):
            yield _Claim(PublishedKey(kid, alg, key.public.kty, identity, file_name, key.not_after), key, bare)


def _names(file_name: str, key: Key, policy: Policy) -> Iterator[tuple[str, str, bool]]:
    """Yield id and algorithm of each member that a key makes, and WSO2's older ids where they are asked for."""
    algs = algorithms(key, policy)
    for alg in algs:
        yield key_id(policy.kid, key, alg, file_name, several=len(algs) > 1), alg, False
    if policy.previous_kids and key.chain and key.stated_kid is None:
        older = [key_id(Scheme.WSO2_SHA1, key, alg, file_name, several=True) for alg in algs]
        yield from ((kid, alg, False) for kid, alg in zip(older, algs, strict=True))
        if key.public.kty == "RSA":
            yield older[0].rpartition("_")[0], algs[0], True


def _earliest(first: datetime | None, second: datetime | None) -> datetime | None:
    moments = [moment for moment in (first, second) if moment is not None]
    return min(moments, default=None)

from hypothesis import given
from hypothesis import strategies as st

from jwks_server.core.tenant import TenantName
from jwks_server.readers.shares import GREEDY, HALF_LIFE, Shares

A, B = TenantName("a.com"), TenantName("b.com")


def test_what_a_tenant_had_counts_half_after_each_half_life() -> None:
    """So that a tenant which mends its ways is like any other before long."""
    shares = Shares()
    shares.charge(A, 4.0, 100.0)
    assert [shares.used(A, 100.0 + n * HALF_LIFE) for n in range(3)] == [4.0, 2.0, 1.0]
    assert shares.used(B, 100.0) == 0.0


def test_a_tenant_is_greedy_while_it_had_too_much() -> None:
    """One that had a little is not, nor one that was greedy long ago."""
    shares = Shares()
    shares.charge(A, GREEDY * 0.9, 0.0)
    assert not shares.is_greedy(A, 0.0)
    shares.charge(A, GREEDY * 0.9, 0.0)
    assert shares.is_greedy(A, 0.0)
    assert not shares.is_greedy(A, 10 * HALF_LIFE)


def test_tenants_that_had_next_to_nothing_of_late_are_forgotten() -> None:
    """The table does not grow with all tenants that ever were."""
    shares = Shares()
    for number in range(20_000):
        shares.charge(TenantName(f"{number}.com"), 0.01, float(number))
    assert len(shares._used) < 2100  # noqa: SLF001 - the table is what is looked at
    assert shares.used(TenantName("19999.com"), 19_999.0) == 0.01


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 5), st.floats(0, 100)), max_size=20))
def test_shares_only_grow_by_what_is_charged(charges: list[tuple[TenantName, float, float]]) -> None:
    """Never below zero, and never above the sum of all charges."""
    shares, now = Shares(), 0.0
    for tenant, seconds, pause in charges:
        now += pause
        shares.charge(tenant, seconds, now)
    for tenant in (A, B):
        assert 0 <= shares.used(tenant, now) <= sum(s for t, s, _ in charges if t == tenant) + 1e-9

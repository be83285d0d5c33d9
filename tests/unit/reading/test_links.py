import os

from hypothesis import given
from hypothesis import strategies as st

from jwks_server.reading.links import NOBODY, Trust, distinct_uids, may_follow, trust_below

UIDS = st.one_of(st.sampled_from([0, 1000, 1234, NOBODY, 2**32 - 2]), st.integers(0, 2**32 - 2))
EVERYBODY = (range(2**32 - 1),)


@given(link=UIDS, target=UIDS, trusted=st.frozensets(UIDS, max_size=3))
def test_a_link_is_followed_where_its_owner_is_trusted_or_owns_the_target(
    link: int, target: int, trusted: frozenset[int]
) -> None:
    """And in no other case; who is trusted by name of `nobody` is not."""
    followed = may_follow(link, target, Trust(trusted, EVERYBODY))
    assert followed == (link != NOBODY and (link in trusted or link == target))


@given(link=UIDS, target=UIDS, own=st.integers(1, 60_000))
def test_where_the_kernel_hides_owners_only_root_and_the_own_user_are_believed(
    link: int, target: int, own: int
) -> None:
    """Under `PrivateUsers=yes` all others look alike, whatever number the kernel shows for them."""
    trust = Trust(frozenset({0, own, NOBODY}), (range(1), range(own, own + 1)))
    assert may_follow(link, target, trust) == (link in {0, own})


def test_the_owners_that_are_trusted_are_roots_our_own_and_the_trees() -> None:
    """As they are on this machine, below a root of ours."""
    descriptor = os.open("/", os.O_RDONLY)
    try:
        trust = trust_below(descriptor)
    finally:
        os.close(descriptor)
    assert trust.uids == {0, os.geteuid()}
    assert trust.tells(os.geteuid())
    assert trust.distinct == distinct_uids()

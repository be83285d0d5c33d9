import pytest

from jwks_server.core.tenant import TenantName
from jwks_server.following.root import Root, Verdict
from jwks_server.reading.jobs import Listing

HERE, THERE = (1, 2), (1, 3)
TENANTS = (TenantName("a.com"), TenantName("b.com"))


def listing(
    identity: tuple[int, int] = HERE,
    tenants: tuple[TenantName, ...] = TENANTS,
    strangers: tuple[str, ...] = (),
    folders: int = 3,
) -> Listing:
    """Return a listing of a root."""
    return Listing(identity, tenants, strangers, folders)


@pytest.fixture
def root() -> Root:
    """Believe in a root with two tenants."""
    root = Root("/keystores")
    root.believe(listing())
    return root


def test_no_root_is_believed_before_the_first_listing() -> None:
    """And nothing is wrong or in doubt."""
    root = Root("/keystores")
    assert not root.believes(HERE)
    assert root.fault is None
    assert root.folders == 1
    assert not root.doubted.is_set()
    assert root.weigh(listing(tenants=()), was_same=False) is Verdict.BELIEVED


def test_the_root_of_the_last_listing_is_believed_and_no_other(root: Root) -> None:
    """Whatever device or inode differs."""
    assert root.believes(HERE)
    assert not root.believes((HERE[0] + 1, HERE[1]))
    assert not root.believes(THERE)
    root.believe(listing(THERE, folders=9))
    assert root.believes(THERE)
    assert not root.believes(HERE)
    assert root.folders == 9


def test_folders_that_are_no_tenants_are_named_when_they_are_new(root: Root) -> None:
    """Once each; one that went and came back is new again."""
    assert list(root.believe(listing(strangers=("Upper.com", "Also.com")))) == ["Also.com", "Upper.com"]
    assert list(root.believe(listing(strangers=("Upper.com", "Also.com", "New.com")))) == ["New.com"]
    assert list(root.believe(listing(strangers=("New.com",)))) == []
    assert list(root.believe(listing(strangers=("New.com", "Upper.com")))) == ["Upper.com"]


def test_folders_are_counted_again_in_the_believed_root_alone(root: Root) -> None:
    """Another one's say nothing of what the watch has to cover."""
    root.recount(listing(folders=5))
    assert root.folders == 5
    root.recount(listing(THERE, folders=7))
    assert root.folders == 5
    assert root.believes(HERE)


@pytest.mark.parametrize("tenants", [TENANTS, ()])
def test_the_root_that_was_there_all_the_time_is_the_same(root: Root, tenants: tuple[TenantName, ...]) -> None:
    """Tenants that are gone from it are gone."""
    assert root.weigh(listing(tenants=tenants), was_same=True) is Verdict.SAME


@pytest.mark.parametrize(("identity", "was_same"), [(HERE, False), (THERE, False), (THERE, True)])
def test_another_root_is_believed_where_it_has_tenants(
    root: Root, identity: tuple[int, int], *, was_same: bool
) -> None:
    """One of the old identity too, that was lost: it may be a folder that was removed and made again."""
    assert root.weigh(listing(identity), was_same=was_same) is Verdict.BELIEVED
    assert root.weigh(listing(identity, tenants=()), was_same=was_same) is Verdict.REFUSED
    assert root.believes(HERE)  # weighing is not believing


def test_an_empty_root_is_believed_in_the_place_of_an_empty_one(root: Root) -> None:
    """It takes no tenant away."""
    root.believe(listing(tenants=()))
    assert root.weigh(listing(THERE, tenants=()), was_same=False) is Verdict.BELIEVED


def test_a_root_that_is_found_has_no_fault(root: Root) -> None:
    """Whatever it was lost for."""
    root.lose("gone")
    root.find()
    assert root.fault is None


def test_a_root_is_lost_for_a_reason_and_found_again(root: Root) -> None:
    """Each is news once; another reason is news too; what was believed stays believed."""
    assert not root.find()
    assert root.lose("gone")
    assert not root.lose("gone")
    assert root.lose("hangs")
    assert root.fault == "hangs"
    assert root.believes(HERE)
    assert root.find()
    assert not root.find()
    assert root.lose("hangs")

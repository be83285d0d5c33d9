from dataclasses import dataclass, replace
from datetime import timedelta

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import NOW, certificate, pem, private_key

from jwks_server.core.build import build, faulty_key_file, read_key_file
from jwks_server.core.lifecycle import KeyFile, Moment
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Folder, TextFile
from jwks_server.core.tenant import TenantName

TENANT = TenantName("foo.com")
START = Moment(NOW, 0.0)
CERTIFICATES = [
    certificate(private_key(kind), f"{kind}-{number}") for kind in ("RSA", "P-256", "Ed25519") for number in (1, 2)
]
FILES = [f"{letter}.pem" for letter in "abcd"]


def key_file(name: str, certificates: tuple[x509.Certificate, ...]) -> KeyFile:
    return read_key_file(name, b"", pem(*certificates), None)


def files_of(tree: dict[str, tuple[x509.Certificate, ...]]) -> tuple[KeyFile, ...]:
    return tuple(key_file(*item) for item in tree.items())


trees = st.dictionaries(
    st.sampled_from(FILES), st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=3, unique=True).map(tuple)
)
policies = st.sampled_from(
    [Policy(), Policy(previous_kids=True), Policy(rsa_algorithms=("RS256", "PS512")), Policy(x5c=False)]
)


@given(trees, policies, st.randoms())
def test_the_order_of_files_never_changes_the_set(
    tree: dict[str, tuple[x509.Certificate, ...]], policy: Policy, random: object
) -> None:
    """The same tree gives the same bytes and the same tag."""
    files = [key_file(*item) for item in tree.items()]
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = build(TENANT, Folder(tuple(files)), None, policy, START)
    two = build(TENANT, Folder(tuple(shuffled)), None, policy, START)
    assert one.key_set == two.key_set


@given(trees, trees, policies)
def test_a_rebuild_is_idempotent_and_ends_where_a_fresh_start_does(
    before: dict[str, tuple[x509.Certificate, ...]], after: dict[str, tuple[x509.Certificate, ...]], policy: Policy
) -> None:
    """Once what was removed has settled, history leaves no trace."""
    old = build(TENANT, Folder(tuple(key_file(*item) for item in before.items())), None, policy, START)
    folder = Folder(tuple(key_file(*item) for item in after.items()))
    settling = build(TENANT, folder, old, policy, Moment(NOW, 1.0))
    settled = build(TENANT, folder, settling, policy, Moment(NOW, 2.0))
    again = build(TENANT, folder, settled, policy, Moment(NOW, 3.0))
    fresh = build(TENANT, folder, None, policy, Moment(NOW, 2.0))
    assert settled.key_set == again.key_set == fresh.key_set


@given(trees, st.sets(st.sampled_from(FILES)), policies)
def test_a_fault_never_takes_a_key_away(
    tree: dict[str, tuple[x509.Certificate, ...]], faulty: set[str], policy: Policy
) -> None:
    """Whichever files turn bad, for however long: the set stays as it was."""
    files = {name: key_file(name, certificates) for name, certificates in tree.items()}
    good = build(TENANT, Folder(tuple(files.values())), None, policy, START)
    now_bad = tuple(faulty_key_file(name, "corrupt", file) if name in faulty else file for name, file in files.items())
    bad = build(TENANT, Folder(now_bad), good, policy, Moment(NOW + timedelta(days=1), 86_400.0))
    assert bad.key_set == good.key_set


NONE = TextFile()


@dataclass(frozen=True)
class Look:
    """What one look at a tenant's folder may find while its policy is faulty, and how long after the last one."""

    policy: TextFile = NONE
    present: bool = True
    fault: str | None = None
    seconds: float = 0.001


times = st.sampled_from([0.001, 1.0, 100_000.0])
wrong = st.sampled_from(
    [TextFile("kid ="), TextFile("kids = 1"), TextFile('kid = "md5"'), TextFile(fault="unreadable")]
)
looks = st.one_of(
    st.builds(Look, wrong, seconds=times),
    st.builds(Look, fault=st.just("folder cannot be read"), seconds=times),
    st.builds(Look, present=st.just(False), seconds=times),
    st.just(Look()),  # the policy is away for a moment, as in a save
)
graces = st.sampled_from([Policy(), Policy(removal_grace=60)])


@given(wrong, trees, st.lists(st.tuples(looks, trees), max_size=8), trees, graces)
def test_a_first_faulty_policy_never_publishes(
    first: TextFile,
    tree: dict[str, tuple[x509.Certificate, ...]],
    steps: list[tuple[Look, dict[str, tuple[x509.Certificate, ...]]]],
    end: dict[str, tuple[x509.Certificate, ...]],
    defaults: Policy,
) -> None:
    """Whatever happens until it is corrected; and then no key is there that a fresh start would not publish."""
    now = START
    snapshot = build(TENANT, Folder(files_of(tree), first), None, defaults, now)
    for look, files in [(Look(first), tree), *steps]:
        now = replace(now, steady=now.steady + look.seconds)
        gone = look.fault is not None or not look.present
        folder = Folder(() if gone else files_of(files), look.policy, present=look.present, fault=look.fault)
        snapshot = build(TENANT, folder, snapshot, defaults, now)
        assert snapshot.key_set is None
        assert snapshot.published == ()
        assert snapshot.owed == ()
    corrected = Folder(files_of(end), TextFile('kid = "rfc7638"'))
    assert build(TENANT, corrected, snapshot, defaults, now).key_set == (
        build(TENANT, corrected, None, defaults, now).key_set
    )


@given(st.lists(trees, min_size=2, max_size=4))
def test_a_key_that_is_there_before_and_after_is_there_all_the_time(
    steps: list[dict[str, tuple[x509.Certificate, ...]]],
) -> None:
    """Within the settling time, whatever happens to the files in between."""
    kids: list[set[str]] = []
    snapshot = None
    for number, tree in enumerate(steps):
        folder = Folder(tuple(key_file(*item) for item in tree.items()))
        snapshot = build(TENANT, folder, snapshot, Policy(), Moment(NOW, number * 0.001))
        kids.append({key.kid for key in snapshot.published})
    assert all(kids[0] & kids[-1] <= between for between in kids)

import json
from dataclasses import replace
from datetime import timedelta
from itertools import count
from math import inf

import pytest
from cryptography import x509
from support.certificates import NOW, certificate, pem, private_key

from jwks_server.core.build import SETTLE_SECONDS, build, faulty_key_file, read_key_file
from jwks_server.core.lifecycle import KeyFile, Moment, Owed
from jwks_server.core.policy import OutOfValidity, Policy
from jwks_server.core.snapshot import Folder, Level, Remembered, Snapshot, TextFile
from jwks_server.core.tenant import TenantName

TENANT = TenantName("foo.com")
START = Moment(NOW, 1000.0)
numbers = count()


def later(seconds: float, moment: Moment = START) -> Moment:
    return Moment(moment.wall + timedelta(seconds=seconds), moment.steady + seconds)


def key_file(name: str, *certificates: x509.Certificate) -> KeyFile:
    return read_key_file(name, str(next(numbers)).encode(), pem(*certificates), None)


def build_folder(
    *files: KeyFile,
    previous: Snapshot | None = None,
    now: Moment = START,
    policy: str | None = None,
    revoked: str | None = None,
    defaults: Policy | None = None,
    fault: str | None = None,
    present: bool = True,
    remembered: Remembered | None = None,
) -> Snapshot:
    folder = Folder(files, TextFile(policy), TextFile(revoked), present, fault)
    return build(TENANT, folder, previous, defaults or Policy(), now, remembered=remembered)


def kids(snapshot: Snapshot) -> set[str]:
    assert snapshot.key_set is not None
    return {key["kid"] for key in json.loads(snapshot.key_set.body)["keys"]}


A = certificate(private_key("RSA"), "a")
B = certificate(private_key("P-256"), "b")


def test_a_folder_without_key_files_is_no_tenant_yet() -> None:
    """`mkdir` and then the first file must not put an empty set into caches; a policy or a list is no key file."""
    for snapshot in (build_folder(), build_folder(policy="max_age = 7", revoked="nobody")):
        assert snapshot.vacant
        assert snapshot.key_set is None
        assert snapshot.problems == ()
        first_file = build_folder(key_file("a.pem", A), previous=snapshot)
        assert not first_file.vacant
        assert len(kids(first_file)) == 1


def test_a_tenant_that_lost_its_last_key_file_is_one_until_nothing_is_owed() -> None:
    """By the settling time or by a grace; then its folder is as if no file had ever been in it."""
    for defaults, seconds in ((Policy(), SETTLE_SECONDS), (Policy(removal_grace=60), 60)):
        first = build_folder(key_file("a.pem", A), defaults=defaults)
        going = build_folder(previous=first, defaults=defaults, now=later(1))
        assert (going.vacant, kids(going)) == (False, kids(first))
        gone = build_folder(previous=going, defaults=defaults, now=later(1 + seconds))
        assert (gone.vacant, gone.key_set) == (True, None)


def test_a_folder_with_a_fault_is_not_taken_for_one_without_key_files() -> None:
    """Nobody knows what lies in it, whatever lay in it before; and somebody who writes a policy means a tenant."""
    for previous in (None, build_folder()):
        assert not build_folder(fault="folder cannot be read", previous=previous).vacant
        assert not build_folder(policy="max_age =", previous=previous).vacant


def test_key_files_that_publish_nothing_are_an_empty_set_and_a_warning() -> None:
    """Nothing is wrong with them, so it is an answer; it may be a mistake, so somebody hears of it."""
    file = key_file("a.pem", A)
    (kid,) = kids(build_folder(file))
    later_on = certificate(private_key("RSA"), not_before=NOW + timedelta(days=1))
    hiding = 'not_yet_valid = "hide"'
    for snapshot in (
        build_folder(file, revoked=kid),
        build_folder(key_file("a.pem", later_on), policy=hiding),
        build_folder(KeyFile("truststore.p12", b"", "PKCS#12", ())),
        build_folder(previous=build_folder(file), revoked=kid, defaults=Policy(removal_grace=60)),
    ):
        assert snapshot.key_set is not None
        assert snapshot.key_set.body == b'{"keys":[]}'
        assert not snapshot.vacant
        (warning,) = (
            problem for problem in snapshot.problems if problem.level is Level.WARNING and not problem.file_name
        )
        assert "an empty set is published" in warning.text
    assert not any("empty set" in problem.text for problem in build_folder(file).problems)


def test_a_tenant_with_only_faulty_files_has_no_set() -> None:
    """An empty set would be cached; better none."""
    assert build_folder(faulty_key_file("a.pem", "empty file", None)).key_set is None


def test_a_faulty_file_does_not_hold_back_the_others() -> None:
    """What is good is published."""
    snapshot = build_folder(key_file("a.pem", A), faulty_key_file("b.pem", "empty file", None))
    assert len(kids(snapshot)) == 1
    assert [(problem.level, problem.file_name) for problem in snapshot.problems] == [(Level.FAULT, "b.pem")]


def test_a_corrupt_file_keeps_the_keys_it_last_gave() -> None:
    """However long it stays corrupt."""
    good = key_file("a.pem", A)
    first = build_folder(good)
    second = build_folder(faulty_key_file("a.pem", "truncated", good), previous=first, now=later(3600))
    third = build_folder(faulty_key_file("a.pem", "truncated", second.files[0]), previous=second, now=later(7200))
    assert kids(first) == kids(second) == kids(third)
    assert "last good keys stay" in third.problems[0].text


def test_an_unreadable_folder_keeps_everything() -> None:
    """Keys, policy and revocations stay as they were."""
    first = build_folder(key_file("a.pem", A), key_file("b.pem", B), policy="x5c = false", revoked="nobody")
    second = build_folder(previous=first, fault="folder cannot be read", now=later(3600))
    assert second.key_set == first.key_set
    assert second.policy.value.x5c is False
    assert second.revoked.value == {"nobody"}
    assert build_folder(fault="folder cannot be read").key_set is None


def test_a_removed_file_is_believed_after_the_settling_time() -> None:
    """A checkout that unlinks and creates takes nothing away; a removal is over in milliseconds."""
    first = build_folder(key_file("a.pem", A), key_file("b.pem", B))
    gone = build_folder(key_file("a.pem", A), previous=first, now=later(1))
    assert kids(gone) == kids(first)
    assert gone.next_change.seconds_from(later(1)) == pytest.approx(SETTLE_SECONDS)
    assert len(kids(build_folder(key_file("a.pem", A), previous=gone, now=later(1 + SETTLE_SECONDS)))) == 1


def test_a_removed_folder_is_gone_after_the_settling_time() -> None:
    """Until then it is served as it was."""
    first = build_folder(key_file("a.pem", A))
    going = build_folder(previous=first, present=False, now=later(1))
    assert kids(going) == kids(first)
    assert not going.gone
    assert build_folder(previous=going, present=False, now=later(2)).gone


def test_a_grace_keeps_a_removed_key_and_ends_on_time() -> None:
    """The key is owed until the grace is over, and not a moment longer."""
    grace = 'removal_grace = "10m"'
    first = build_folder(key_file("a.pem", A), key_file("b.pem", B), policy=grace)
    gone = build_folder(key_file("b.pem", B), previous=first, policy=grace, now=later(5))
    almost = build_folder(key_file("b.pem", B), previous=gone, policy=grace, now=later(604))
    over = build_folder(key_file("b.pem", B), previous=almost, policy=grace, now=later(605))
    assert kids(first) == kids(gone) == kids(almost)
    assert len(kids(over)) == 1


def test_a_key_that_comes_back_is_owed_no_longer() -> None:
    """A second removal starts a second grace."""
    defaults = Policy(removal_grace=600)
    first = build_folder(key_file("a.pem", A), defaults=defaults)
    gone = build_folder(previous=first, defaults=defaults, now=later(5))
    back = build_folder(key_file("other.pem", A), previous=gone, defaults=defaults, now=later(500))
    assert back.owed == ()
    gone_again = build_folder(previous=back, defaults=defaults, now=later(505))
    assert kids(build_folder(previous=gone_again, defaults=defaults, now=later(1000))) == kids(first)


def test_a_jump_of_the_wall_clock_does_not_end_a_grace() -> None:
    """Graces are counted on the clock that nobody sets."""
    defaults = Policy(removal_grace=600)
    first = build_folder(key_file("a.pem", A), defaults=defaults)
    gone = build_folder(previous=first, defaults=defaults, now=later(5))
    jumped = Moment(NOW + timedelta(days=3650), later(6).steady)
    assert kids(build_folder(previous=gone, defaults=defaults, now=jumped)) == kids(first)


def test_keys_remembered_from_before_the_start_are_owed() -> None:
    """And a deadline that lies too far ahead is cut to the grace."""
    key = key_file("a.pem", A).keys[0]
    remembered = Remembered(Policy(), (Owed("a.pem", key, inf),))
    snapshot = build_folder(defaults=Policy(removal_grace=60), remembered=remembered)
    assert len(kids(snapshot)) == 1
    assert snapshot.next_change.seconds_from(START) == pytest.approx(60)


def test_a_removed_folder_takes_its_own_grace_along() -> None:
    """The policy lay in the folder, and is in force until the last key is no longer owed."""
    first = build_folder(key_file("a.pem", A), policy='removal_grace = "10m"\nx5c = false')
    gone = build_folder(previous=first, present=False, now=later(60))
    assert gone.key_set == first.key_set
    restarted = build_folder(present=False, remembered=Remembered(gone.policy.value, gone.owed), now=later(65))
    assert restarted.key_set == first.key_set
    assert build_folder(previous=restarted, present=False, now=later(660)).gone


def test_a_fault_at_the_start_sets_no_deadline() -> None:
    """Keys from before the start stay as long as nobody can look whether their files are there."""
    key = key_file("a.pem", A).keys[0]
    remembered = Remembered(Policy(removal_grace=60), (Owed("a.pem", key, inf),))
    start = build_folder(fault="unreadable", remembered=remembered)
    much_later = build_folder(fault="unreadable", previous=start, now=later(1e6))
    assert len(kids(much_later)) == 1
    assert much_later.next_change.seconds_from(later(1e6)) is None
    back = build_folder(previous=much_later, policy="removal_grace = 60", now=later(1e6))
    assert len(kids(back)) == 1
    assert back.next_change.seconds_from(later(1e6)) == pytest.approx(60)


def test_revoked_wins_at_once_over_everything() -> None:
    """The grace, another file name and another scheme do not bring a revoked key back."""
    defaults = Policy(removal_grace=600)
    first = build_folder(key_file("a.pem", A), defaults=defaults)
    (kid,) = kids(first)
    assert kids(build_folder(key_file("a.pem", A), previous=first, defaults=defaults, revoked=kid)) == set()
    assert kids(build_folder(previous=first, defaults=defaults, revoked=kid)) == set()
    renamed = build_folder(key_file("z.pem", A), policy='kid = "filename"', revoked=f"# gone\n{kid}\n")
    assert kids(renamed) == set()


def test_an_emptied_list_of_revoked_keys_settles_first() -> None:
    """A list that is just being rewritten brings nothing back."""
    kid = next(iter(kids(build_folder(key_file("a.pem", A)))))
    first = build_folder(key_file("a.pem", A), revoked=kid)
    rewriting = build_folder(key_file("a.pem", A), previous=first, revoked="", now=later(1))
    assert kids(rewriting) == set()
    assert rewriting.look_again.seconds_from(later(1)) == pytest.approx(SETTLE_SECONDS)
    assert kids(build_folder(key_file("a.pem", A), previous=rewriting, now=later(2))) == {kid}


def test_a_wrong_policy_leaves_the_last_good_one_in_force() -> None:
    """And says what is wrong with it."""
    first = build_folder(key_file("a.pem", A), policy="x5c = false")
    second = build_folder(key_file("a.pem", A), previous=first, policy="x5c = 7")
    assert second.key_set == first.key_set
    assert "x5c = 7 is not allowed" in second.problems[0].text
    broken = build_folder(key_file("a.pem", A), previous=second, policy="x5c =")
    assert broken.key_set == first.key_set


# --- rules that were never known

WRONG = TextFile("x5c = 7")
UNREADABLE = TextFile(fault="permission denied")


def build_files(
    *files: KeyFile,
    policy: TextFile | None = None,
    revoked: TextFile | None = None,
    previous: Snapshot | None = None,
    now: Moment = START,
    defaults: Policy | None = None,
    remembered: Remembered | None = None,
) -> Snapshot:
    folder = Folder(files, policy or TextFile(), revoked or TextFile())
    return build(TENANT, folder, previous, defaults or Policy(), now, remembered=remembered)


@pytest.mark.parametrize("policy", [WRONG, UNREADABLE, TextFile("x5c ="), TextFile("[" * 100_000)])
def test_a_first_policy_that_is_faulty_withholds_the_tenant(policy: TextFile) -> None:
    """Under the server's own policy the keys would have other ids and algorithms than relying parties know."""
    file = key_file("a.pem", A)
    first = build_files(file, policy=policy)
    assert (first.key_set, first.published, first.vacant) == (None, (), False)
    (problem,) = first.problems
    assert (problem.level, problem.file_name) == (Level.FAULT, "tenant.toml")
    assert problem.text.endswith(
        "; nothing is published until it is corrected, because the tenant's policy is not known"
    )
    again = build_files(file, policy=policy, previous=first, now=later(3600))
    assert again.key_set is None
    corrected = build_files(file, policy=TextFile('kid = "filename"'), previous=again, now=later(7200))
    assert kids(corrected) == {"a"}
    assert corrected.problems == ()
    wrong_again = build_files(file, policy=policy, previous=corrected, now=later(7300))
    assert wrong_again.key_set == corrected.key_set
    assert wrong_again.problems[0].text.endswith("; the last good policy is in force")


def test_a_first_policy_that_is_faulty_is_gone_when_it_has_settled() -> None:
    """An editor that unlinks it and writes a good one does not publish by the server's policy in between."""
    file = key_file("a.pem", A)
    first = build_files(file, policy=WRONG)
    missing = build_files(file, previous=first, now=later(1))
    assert missing.key_set is None
    assert missing.look_again.seconds_from(later(1)) == pytest.approx(SETTLE_SECONDS)
    written = build_files(file, policy=TextFile("x5c = false"), previous=missing, now=later(1 + SETTLE_SECONDS / 2))
    assert len(kids(written)) == 1
    assert written.policy.value.x5c is False
    gone = build_files(file, previous=missing, now=later(2))
    assert kids(gone) == kids(build_files(file))


def test_a_policy_that_was_known_stays_in_force_when_it_turns_faulty() -> None:
    """That there was none is known as well; and what the state directory remembers is."""
    file = key_file("a.pem", A)
    none = build_files(file)
    assert build_files(file, policy=WRONG, previous=none).key_set == none.key_set
    remembered = Remembered(Policy(x5c=False), ())
    restarted = build_files(file, policy=WRONG, remembered=remembered)
    assert restarted.policy.value.x5c is False
    assert kids(restarted) == kids(none)
    late = build_files(file, policy=WRONG, previous=build_files(file, policy=WRONG), remembered=remembered)
    assert late.key_set == restarted.key_set


def test_a_list_of_revoked_keys_that_was_never_readable_withholds_the_tenant() -> None:
    """It may name any of the keys; once it was read, what it last named stays revoked."""
    file, other = key_file("a.pem", A), key_file("b.pem", B)
    (kid,) = kids(build_files(file))
    first = build_files(file, other, revoked=UNREADABLE)
    assert (first.key_set, first.published) == (None, ())
    (problem,) = first.problems
    assert (problem.level, problem.file_name) == (Level.FAULT, "revoked")
    assert problem.text == (
        "permission denied; nothing is published until it can be read, because the tenant's revoked keys are not known"
    )
    emptied = build_files(file, other, revoked=TextFile(""), previous=first, now=later(1))
    assert emptied.key_set is None
    read = build_files(file, other, revoked=TextFile(kid), previous=emptied, now=later(1.01))
    assert kids(read) == kids(build_files(other))
    unreadable = build_files(file, other, revoked=UNREADABLE, previous=read, now=later(2))
    assert unreadable.key_set == read.key_set
    gone = build_files(file, other, previous=emptied, now=later(2))
    assert kids(gone) == kids(build_files(file, other))


@pytest.mark.parametrize("folder", [Folder(fault="folder cannot be read"), Folder(present=False)])
def test_a_folder_that_cannot_be_looked_into_does_not_make_unknown_rules_known(folder: Folder) -> None:
    """What was withheld stays withheld, and what comes back with a fault is still a first one."""
    file = key_file("a.pem", A)
    first = build_files(file, policy=WRONG)
    between = build(TENANT, folder, first, Policy(), later(1))
    assert between.key_set is None
    assert build_files(file, policy=WRONG, previous=between, now=later(2)).key_set is None
    never = build(TENANT, folder, None, Policy(), START)
    assert build_files(file, policy=WRONG, previous=never, now=later(2)).key_set is None
    assert build_files(file, revoked=UNREADABLE, previous=never, now=later(2)).key_set is None


def test_a_key_that_was_never_published_is_not_owed() -> None:
    """It was put there while the policy was faulty, and taken away again."""
    defaults = Policy(removal_grace=600)
    first = build_files(key_file("a.pem", A), key_file("b.pem", B), policy=WRONG, defaults=defaults)
    fewer = build_files(key_file("b.pem", B), policy=WRONG, defaults=defaults, previous=first, now=later(1))
    ruled = build_files(key_file("b.pem", B), policy=TextFile(""), defaults=defaults, previous=fewer, now=later(2))
    assert ruled.owed == ()
    assert kids(ruled) == kids(build_files(key_file("b.pem", B)))
    at_once = build_files(policy=TextFile(""), defaults=defaults, previous=first, now=later(1))
    assert at_once.owed == ()


def test_a_debt_from_before_the_start_outlasts_unknown_rules() -> None:
    """It is published as long as nobody can look, withheld with the others, and neither lost nor cut short."""
    key = key_file("a.pem", A).keys[0]
    remembered = Remembered(Policy(removal_grace=60), (Owed("a.pem", key, inf),))
    start = build_folder(fault="unreadable", remembered=remembered)
    assert len(kids(start)) == 1
    unknown = build_files(key_file("b.pem", B), revoked=UNREADABLE, previous=start, now=later(100))
    assert unknown.key_set is None
    unreadable = build_folder(fault="unreadable", previous=unknown, now=later(200))
    assert unreadable.key_set is None
    there_too = build_files(key_file("a.pem", A), revoked=UNREADABLE, previous=unreadable, now=later(300))
    known = build_files(
        key_file("b.pem", B),
        policy=TextFile("removal_grace = 60"),
        revoked=TextFile("nobody"),
        previous=there_too,
        now=later(400),
    )
    assert len(kids(known)) == 2
    assert known.next_change.seconds_from(later(400)) == pytest.approx(60)
    away = build_folder(present=False, previous=unknown, now=later(100))
    assert away.key_set is None
    assert not away.gone
    assert build_folder(present=False, previous=away, now=later(161)).gone


def test_validity_hides_and_shows_on_time() -> None:
    """The snapshot says when it changes by itself."""
    hide = Policy(not_yet_valid=OutOfValidity.HIDE, expired=OutOfValidity.HIDE)
    soon = certificate(
        private_key("P-384"), not_before=NOW + timedelta(seconds=60), not_after=NOW + timedelta(seconds=120)
    )
    file = key_file("soon.pem", soon)
    before = build_folder(file, defaults=hide)
    assert kids(before) == set()
    assert before.next_change.seconds_from(START) == 60
    during = build_folder(file, previous=before, defaults=hide, now=later(60))
    assert len(kids(during)) == 1
    assert during.next_change.seconds_from(later(60)) == 60
    after = build_folder(file, previous=during, defaults=hide, now=later(121))
    assert kids(after) == set()
    assert after.next_change.seconds_from(later(121)) is None
    warned = build_folder(file, now=later(121))
    assert len(kids(warned)) == 1
    assert "expired on" in warned.problems[0].text


def test_the_same_key_in_two_files_is_published_once() -> None:
    """A copy is no second key."""
    assert len(kids(build_folder(key_file("a.pem", A), key_file("copy.pem", A)))) == 1


def test_a_clash_names_both_files_and_what_was_published_stays() -> None:
    """Whichever file sorts first."""
    policy = 'kid = "filename"'
    first = build_folder(key_file("k.pem", B), policy=policy)
    clash = build_folder(key_file("k.pem", B), key_file("k.der", A), previous=first, policy=policy)
    assert clash.key_set == first.key_set
    (problem,) = clash.problems
    assert (problem.level, problem.file_name) == (Level.FAULT, "k.der")
    assert "k.pem" in problem.text


def test_a_replaced_key_gives_its_id_to_the_new_one_at_once() -> None:
    """Under the filename scheme both claim it; the old one is only owed."""
    policy = 'kid = "filename"\nremoval_grace = "24h"'
    first = build_folder(key_file("k.pem", A), policy=policy)
    second = build_folder(key_file("k.pem", B), previous=first, policy=policy)
    assert second.key_set is not None
    assert [key["kty"] for key in json.loads(second.key_set.body)["keys"]] == ["EC"]
    assert second.problems == ()


def test_rsa_comes_first_then_ec_then_okp() -> None:
    """Some clients ignore the id and fail on the first key of another type."""
    certificates = [certificate(private_key(kind)) for kind in ("Ed25519", "P-521", "RSA", "P-256")]
    snapshot = build_folder(*(key_file(f"{n}.pem", item) for n, item in enumerate(certificates)))
    assert snapshot.key_set is not None
    assert [key["kty"] for key in json.loads(snapshot.key_set.body)["keys"]] == ["RSA", "EC", "EC", "OKP"]


def test_previous_kids_add_those_of_wso2s_switch() -> None:
    """For an RSA key three ids: SHA-256 and SHA-1 with the algorithm, and the bare SHA-1 without certificate."""
    snapshot = build_folder(key_file("a.pem", A), key_file("b.pem", B), defaults=Policy(previous_kids=True))
    assert snapshot.key_set is not None
    keys = json.loads(snapshot.key_set.body)["keys"]
    assert len(keys) == 3 + 2
    bare = [key for key in keys if "_" not in key["kid"]]
    assert [sorted(key) for key in bare] == [["alg", "e", "kid", "kty", "n", "use"]]
    sha1 = [key["kid"] for key in keys if key["kid"].startswith(bare[0]["kid"])]
    assert sorted(sha1) == [bare[0]["kid"], bare[0]["kid"] + "_RS256"]


def test_a_large_set_is_warned_of() -> None:
    """At 8 KiB and at 51,200 bytes."""
    certificates = [certificate(private_key("P-256"), str(n)) for n in range(90)]
    few = build_folder(*(key_file(f"{n}.pem", item) for n, item in enumerate(certificates[:15])))
    many = build_folder(*(key_file(f"{n}.pem", item) for n, item in enumerate(certificates)))
    assert "8192" in few.problems[0].text
    assert "51200" in many.problems[0].text


def test_key_types_that_not_all_clients_take_are_opted_into() -> None:
    """Without that they are a fault, with it they are published."""
    file = key_file("k.pem", certificate(private_key("secp256k1")))
    refused = build_folder(file)
    assert refused.key_set is None
    assert "ES256K" in refused.problems[0].text
    assert len(kids(build_folder(file, policy='allow = ["ES256K"]'))) == 1


def test_the_etag_follows_the_body_and_the_times_the_policy() -> None:
    """Equal sets have equal tags."""
    one, two = (
        build_folder(key_file("a.pem", A)).key_set,
        build_folder(key_file("other", A), policy="max_age = 60\nstale_if_error = 0").key_set,
    )
    assert one is not None
    assert two is not None
    assert (one.etag, one.body) == (two.etag, two.body)
    assert (one.max_age, two.max_age) == (300, 60)
    assert (one.stale_if_error, two.stale_if_error) == (3600, 0)
    assert build_folder(key_file("b.pem", B)).key_set != replace(one, max_age=300)


@pytest.mark.parametrize("fault", [None, "folder cannot be read"])
def test_a_folder_that_goes_file_by_file_leaves_nothing_to_look_at_again(fault: str | None) -> None:
    """`rm -r` is seen half-way: its policy is missing, then the folder; only the grace's end is due."""
    first = build_folder(key_file("a.pem", A), policy='removal_grace = "10m"', revoked="nobody")
    half = build_folder(key_file("a.pem", A), previous=first, now=later(1))
    assert half.look_again.seconds_from(later(1)) == pytest.approx(SETTLE_SECONDS)
    gone = build_folder(previous=half, present=False, fault=fault, now=later(1.001))
    assert gone.look_again.steady is None
    assert kids(gone) == kids(first)
    assert gone.policy.value.removal_grace == 600
    assert gone.revoked.value == {"nobody"}

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from support.certificates import NOW, certificate, pem, private_key
from support.publications import kids_of

from jwks_server.core.build import build, faulty_key_file, read_key_file
from jwks_server.core.contract import Ask, Reply, answer, tenant_of
from jwks_server.core.keyset import KeySet
from jwks_server.core.lifecycle import Moment
from jwks_server.core.policy import OutOfValidity, Policy
from jwks_server.core.publication import Publication, publication_of
from jwks_server.core.snapshot import Folder, TextFile
from jwks_server.core.tenant import TenantName

TENANT = TenantName("foo.com")
SUPER = TenantName("carbon.super")
START = Moment(NOW, 1000.0)
URLS = ("/oauth2/jwks", "/t/foo.com/oauth2/jwks")
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "")

KEY_FILE = read_key_file("k.pem", b"", pem(certificate(private_key("P-256"))), None)
BROKEN = faulty_key_file("k.pem", "truncated", None)


def published(folder: Folder, policy: Policy | None = None) -> Publication:
    return publication_of(build(TENANT, folder, None, policy or Policy(), START))


def key_set_of(publication: Publication) -> KeySet:
    assert publication.key_set is not None
    return publication.key_set


GOOD = published(Folder((KEY_FILE,)))
ETAG = key_set_of(GOOD).etag
EMPTY = published(Folder((KEY_FILE,), revoked=TextFile("\n".join(kids_of(GOOD)))))
EMPTY_ETAG = key_set_of(EMPTY).etag


def asked(
    ask: Ask,
    publication: Publication | None,
    now: Moment = START,
    *,
    expected: bool = False,
    media_type: str = "a/json",
) -> Reply:
    return answer(ask, publication, now, expected=expected, media_type=media_type)


# --- the table of the design

STATES: Mapping[str, tuple[Publication | None, bool, tuple[str, ...], int]] = {
    "a good tenant": (GOOD, False, (), 200),
    "a good tenant that the client knows": (GOOD, False, (ETAG,), 304),
    "a tenant whose every file is faulty": (published(Folder((BROKEN,))), False, (ETAG,), 503),
    "a tenant whose folder cannot be read": (published(Folder(fault="folder cannot be read")), False, (), 503),
    "a tenant whose first policy is faulty": (published(Folder((KEY_FILE,), TextFile("kid ="))), False, (ETAG,), 503),
    "a tenant whose first list of revoked keys is faulty": (
        published(Folder((KEY_FILE,), revoked=TextFile(fault="permission denied"))),
        False,
        ("*",),
        503,
    ),
    "a tenant that was not loaded yet": (None, True, (ETAG, "*"), 503),
    "a folder without key files": (published(Folder()), False, ("*",), 404),
    "a tenant whose key files publish nothing": (EMPTY, False, (), 200),
    "a tenant whose key files publish nothing, as the client knows": (EMPTY, False, (EMPTY_ETAG,), 304),
    "an unknown tenant": (None, False, (ETAG, "*"), 404),
}
"""What is known of the tenant, the client's validators, and the status that GET gets."""

KEPT = "public, max-age=300, stale-if-error=3600"


def status_for(method: str, of_get: int) -> int:
    if of_get == 404 or method in {"GET", "HEAD"}:
        return of_get
    return 204 if method == "OPTIONS" else 405


def headers_for(status: int, publication: Publication | None, length: int) -> dict[str, str]:
    headers = {"Server": "jwks-server", "Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
    allowed = "GET, HEAD, OPTIONS"
    validator = {"ETag": EMPTY_ETAG, "Cache-Control": "no-cache"}
    if publication is not EMPTY:
        validator = {"ETag": ETAG, "Cache-Control": KEPT}
    match status:
        case 200:
            headers |= {"Content-Type": "a/json", "Content-Length": str(length), **validator}
        case 304:
            headers |= validator
        case 204:
            headers |= {"Allow": allowed, "Access-Control-Allow-Methods": allowed, "Access-Control-Max-Age": "86400"}
            headers |= {"Access-Control-Allow-Headers": "*, Authorization"}
        case _:
            headers |= {"Content-Type": "application/problem+json", "Content-Length": str(length)}
            headers |= {"Cache-Control": "no-store"}
            headers |= {405: {"Allow": allowed}, 503: {"Retry-After": "5"}}.get(status, {})
    return headers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("state", STATES)
def test_the_table_of_the_contract(state: str, url: str, method: str) -> None:
    """Status, every header and the body, at both URLs, for every method."""
    publication, expected, if_none_match, of_get = STATES[state]
    assert tenant_of(url, super_tenant=TENANT) == TENANT
    reply = asked(Ask(method, if_none_match), publication, expected=expected)
    status = status_for(method, of_get)
    assert reply.status == status
    whole = reply if method != "HEAD" else asked(Ask("GET", if_none_match), publication, expected=expected)
    assert len({name.lower() for name, _ in reply.headers}) == len(reply.headers)
    assert dict(reply.headers) == headers_for(status, publication, len(whole.body))
    if method == "HEAD" or status in {204, 304}:
        assert reply.body == b""
    elif status == 200:
        assert reply.body == key_set_of(publication or GOOD).body
    else:
        assert json.loads(reply.body)["status"] == status


def test_the_table_covers_every_url() -> None:
    """A tenant has its own URL; the super tenant has the short one, too."""
    assert tenant_of("/oauth2/jwks", SUPER) == tenant_of("/t/carbon.super/oauth2/jwks", SUPER) == SUPER
    assert tenant_of("/t/foo.com/oauth2/jwks", SUPER) == TENANT


# --- targets


@pytest.mark.parametrize(
    "target",
    [
        "", "/", "*", "/oauth2", "/oauth2/jwks/", "/OAUTH2/JWKS", "//oauth2/jwks", "/oauth2/jwks#x", "/t//oauth2/jwks",
        "/t/foo.com/oauth2/jwks/", "/t/foo.com/x/oauth2/jwks", "/t/../oauth2/jwks", "/t/./foo.com/oauth2/jwks",
        "/t/%2e%2e/oauth2/jwks", "/t/..%2fcarbon.super/oauth2/jwks", "/t/foo.com%00/oauth2/jwks", "/%6fauth2/jwks",
        "/t/%66oo.com/oauth2/jwks", "/t/FOO.com/oauth2/jwks", "/t/.git/oauth2/jwks", "/t/foo.com\n/oauth2/jwks",
        "/t/" + "a" * 254 + "/oauth2/jwks", "/t/fö.com/oauth2/jwks", "ftp://h/oauth2/jwks", "httpsx://h/oauth2/jwks",
        "http://h", "http:/oauth2/jwks", "http://h/http://h/oauth2/jwks",
    ],
)  # fmt: skip
def test_any_other_target_names_no_tenant(target: str) -> None:
    """Nothing is decoded, folded or trimmed."""
    assert tenant_of(target, SUPER) is None


@pytest.mark.parametrize("before", ["", "http://h", "https://h:9443", "HTTP://user@h"])
@pytest.mark.parametrize("after", ["", "?", "?x=/../", "?/t/evil.com/oauth2/jwks"])
def test_the_absolute_form_and_a_query_change_nothing(before: str, after: str) -> None:
    """RFC 9112, section 3.2.2; a query is no part of the resource's name here."""
    assert tenant_of(f"{before}/oauth2/jwks{after}", SUPER) == SUPER
    assert tenant_of(f"{before}/t/foo.com/oauth2/jwks{after}", SUPER) == TENANT


# --- validators


@pytest.mark.parametrize(
    "lines",
    [("{0}",), ("W/{0}",), ('"x", {0}',), ('"x",{0},"y"',), ('"a,b", W/{0}',), ("*",), ("  {0}  ",), ('"a"', "{0}")],
)
def test_a_matching_validator_gets_304(lines: tuple[str, ...]) -> None:
    """By weak comparison, in a list, on a later line."""
    assert asked(Ask("GET", tuple(line.format(ETAG) for line in lines)), GOOD).status == 304


@pytest.mark.parametrize(
    "lines", [(), ("",), ('""',), ('"x"',), ("W/",), ("unquoted",), ('"',), (ETAG.strip('"'),), ("**",), ('"*"',)]
)
def test_other_validators_get_the_whole_set(lines: tuple[str, ...]) -> None:
    """An empty tag too, which curl sends the first time."""
    assert asked(Ask("GET", lines), GOOD).status == 200


# --- media type, time


def test_the_media_type_is_a_setting() -> None:
    """Some clients ask for the registered one."""
    reply = asked(Ask("GET"), GOOD, media_type="application/jwk-set+json")
    assert dict(reply.headers)["Content-Type"] == "application/jwk-set+json"


def cache_control(publication: Publication, now: Moment = START) -> str:
    whole, not_modified = (asked(Ask("GET", lines), publication, now) for lines in ((), ("*",)))
    assert (whole.status, not_modified.status) == (200, 304)
    assert dict(whole.headers)["Cache-Control"] == dict(not_modified.headers)["Cache-Control"]
    return dict(whole.headers)["Cache-Control"]


def test_a_set_is_kept_no_longer_than_until_it_changes_by_itself() -> None:
    """By validity on the wall clock or by a grace on the steady one, whole seconds, never below zero."""
    ends = certificate(private_key("P-256"), not_after=NOW + timedelta(seconds=100))
    files = (read_key_file("k.pem", b"", pem(ends), None),)
    hiding = published(Folder(files), Policy(expired=OutOfValidity.HIDE))
    for seconds, max_age in ((0, 100), (0.5, 99), (99.5, 0), (200, 0), (-1000, 300)):
        moment = Moment(NOW + timedelta(seconds=seconds), 1000.0)
        assert cache_control(hiding, moment) == f"public, max-age={max_age}, stale-if-error=3600"
    graceful = Policy(removal_grace=600)
    first = build(TENANT, Folder(files), None, graceful, START)
    owing = publication_of(build(TENANT, Folder(), first, graceful, START))
    for steady, max_age in ((1000.0, 300), (1400.0, 200), (1700.0, 0)):
        moment = replace(START, steady=steady)
        assert cache_control(owing, moment) == f"public, max-age={max_age}, stale-if-error=3600"


def test_how_long_caches_may_answer_from_a_set_without_the_server_is_a_policy() -> None:
    """RFC 5861, section 4; with 0 nothing is said of it."""
    folder = Folder((KEY_FILE,))
    assert cache_control(published(folder, Policy(stale_if_error=60))) == "public, max-age=300, stale-if-error=60"
    assert cache_control(published(folder, Policy(max_age=0, stale_if_error=0))) == "public, max-age=0"

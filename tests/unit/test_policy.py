from typing import Any

import pytest

from jwks_server.core.errors import PolicyError
from jwks_server.core.kid import Scheme
from jwks_server.core.policy import OutOfValidity, Policy


def test_the_defaults_are_those_of_wso2() -> None:
    """No key given changes nothing."""
    assert Policy().updated({}) == Policy()
    assert (Policy().kid, Policy().rsa_algorithms, Policy().x5c) == (Scheme.WSO2, ("RS256",), True)


def test_every_key_is_taken() -> None:
    """A whole file of allowed values."""
    policy = Policy().updated(
        {
            "kid": "rfc7638", "rsa_algorithms": ["PS256"], "eddsa": "Ed25519", "x5c": False, "x5t": True,
            "hexify_thumbprints": True, "max_age": 60, "stale_if_error": 0, "not_yet_valid": "hide", "expired": "hide",
            "allow": ["ES256K", "ML-DSA"], "aliases": ["WSO2Carbon"], "previous_kids": True, "removal_grace": "24h",
        }
    )  # fmt: skip
    assert policy == Policy(
        Scheme.RFC7638, ("PS256",), "Ed25519", False, True, True, 60, 0, OutOfValidity.HIDE, OutOfValidity.HIDE,
        ("ES256K", "ML-DSA"), ("wso2carbon",), True, 86_400,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("kid", "sha256", "'wso2' or"),
        ("kid", 5, "'wso2' or"),
        ("rsa_algorithms", [], "RS256"),
        ("rsa_algorithms", ["HS256"], "RS256"),
        ("rsa_algorithms", "RS256", "a list"),
        ("eddsa", "Ed448", "'EdDSA' or 'Ed25519'"),
        ("x5c", "yes", "true or false"),
        ("x5c", 1, "true or false"),
        ("max_age", -1, "seconds"),
        ("max_age", True, "seconds"),
        ("max_age", "300", "seconds"),
        ("stale_if_error", -1, "seconds"),
        ("stale_if_error", False, "seconds"),
        ("stale_if_error", "1h", "seconds"),
        ("expired", "drop", "'publish' or 'hide'"),
        ("allow", ["DSA"], "ES256K"),
        ("aliases", [1], "a list"),
        ("aliases", ["\udcff"], "a list"),
        ("removal_grace", "1 day", "a time"),
        ("removal_grace", -5, "a time"),
        ("removal_grace", "9999999d", "a time"),
    ],
)
def test_a_wrong_value_names_the_key_the_value_and_the_allowed_ones(key: str, value: Any, allowed: str) -> None:  # noqa: ANN401
    """The operator can mend it without a manual."""
    with pytest.raises(PolicyError) as caught:
        Policy().updated({key: value})
    text = str(caught.value)
    assert text.startswith(f"{key} = ")
    assert allowed in text


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    """A slip of the pen is no default."""
    with pytest.raises(PolicyError, match=r"unknown key 'kids'; .*\bkid\b"):
        Policy().updated({"kids": "wso2"})


def test_a_scheme_without_the_algorithm_allows_one_algorithm_only() -> None:
    """Otherwise two members of a set would share their id."""
    with pytest.raises(PolicyError, match="one only"):
        Policy().updated({"kid": "rfc7638", "rsa_algorithms": ["RS256", "RS512"]})

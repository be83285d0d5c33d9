import json
from pathlib import Path
from typing import Any

import pytest
from support.certificates import NOW

from jwks_server.core.build import build, read_key_file
from jwks_server.core.formats import Password
from jwks_server.core.lifecycle import Moment
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Folder, Snapshot
from jwks_server.core.tenant import TenantName

WSO2 = Path(__file__).parents[3] / "shared" / "wso2"

pytestmark = pytest.mark.skipif(not WSO2.is_dir(), reason="WSO2's keystores are not part of the project")

PLAIN = {"x5c": False}
THREE = {"rsa_algorithms": ["RS256", "RS384", "RS512"]}
HEXIFIED = {"x5c": False, "x5t": True, "hexify_thumbprints": True}


def published(keystore: str, password: str, policy: dict[str, Any]) -> Snapshot:
    file = read_key_file(keystore, b"", (WSO2 / keystore).read_bytes(), Password(password.encode()))
    return build(TenantName("foo.com"), Folder((file,)), None, Policy().updated(policy), Moment(NOW, 0.0))


def as_set(keys: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(key, sort_keys=True) for key in keys}


@pytest.mark.parametrize(
    ("keystore", "password", "policy", "answer"),
    [
        ("foo-com.jks", "foo.com", {}, "foo-com.default.json"),
        ("foo-com.jks", "foo.com", PLAIN, "foo-com.plain.json"),
        ("foo-com.jks", "foo.com", THREE, "foo-com.rs256-rs384-rs512.json"),
        ("foo-com.jks", "foo.com", HEXIFIED, "foo-com.hexify-x5t.json"),
        ("wso2carbon.jks", "wso2carbon", {}, "wso2carbon.default.json"),
        ("wso2carbon.jks", "wso2carbon", PLAIN, "wso2carbon.plain.json"),
    ],
)
def test_the_set_is_the_one_that_wso2_answers(
    keystore: str, password: str, policy: dict[str, Any], answer: str
) -> None:
    """Key by key and member by member; their order is free."""
    key_set = published(keystore, password, policy).key_set
    assert key_set is not None
    ours = json.loads(key_set.body)["keys"]
    theirs = json.loads((WSO2 / answer).read_text())["keys"]
    assert as_set(ours) == as_set(theirs)
    assert len(ours) == len(theirs)


def test_a_truststore_publishes_nothing_and_is_no_fault() -> None:
    """WSO2 answers an empty set for it; here somebody is warned of it."""
    snapshot = published("client-truststore.jks", "wso2carbon", {})
    assert snapshot.key_set is not None
    assert snapshot.key_set.body == b'{"keys":[]}'
    assert [problem.level for problem in snapshot.problems] == ["notice", "warning"]

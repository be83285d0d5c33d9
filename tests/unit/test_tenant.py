import pytest

from jwks_server.core.errors import TenantNameError
from jwks_server.core.tenant import is_key_file, tenant_name


@pytest.mark.parametrize("name", ["carbon.super", "foo.com", "a", "0-9_z", "a..b", "a" * 253])
def test_a_domain_of_lower_case_letters_digits_and_marks_is_a_tenant(name: str) -> None:
    """The name comes back as it was."""
    assert tenant_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-a", "_a", "Foo.com", "foo com", "a/b", "a\0", "a\n", "é", "%2e", "a" * 254, "1\u0661"],
)
def test_anything_else_is_no_tenant(name: str) -> None:
    """Nothing is folded, trimmed or decoded into a tenant."""
    with pytest.raises(TenantNameError, match="not a tenant domain"):
        tenant_name(name)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("a.pem", True), ("noending", True), (".hidden", False), ("a.pem~", False), ("#a#", False), (".a.swp", False),
     ("a.tmp", False), ("a.p12.password", False), ("tenant.toml", False), ("revoked", False), ("4913", False)],
)  # fmt: skip
def test_hidden_temporary_and_companion_files_are_not_key_files(name: str, counts: bool) -> None:
    """Only what is meant to hold keys is read as such."""
    assert is_key_file(name) is counts

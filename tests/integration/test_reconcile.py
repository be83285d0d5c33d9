from pathlib import Path

from support.certificates import certificate, pem, private_key
from support.inprocess import eventually, followed

A, B = pem(certificate(private_key("P-256", 1))), pem(certificate(private_key("P-256", 2)))


async def test_a_change_rebuilds_the_tenant_it_belongs_to_and_no_other(keystores: Path) -> None:
    """However many files change; the others keep the very snapshot they had."""
    for tenant in ("a.com", "b.com", "c.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    async with followed(keystores) as world:
        # What was written just before the start is read once more, by the first comparison.
        await eventually(lambda: not world.reconciler.uncertain)
        others = world.store.get("b.com"), world.store.get("c.com")
        counts = world.loader.loads.copy()
        before = world.kids("a.com")
        (keystores / "a.com" / "k.pem").write_bytes(B)
        await eventually(lambda: world.kids("a.com") not in (None, before))
        await eventually(lambda: not world.reconciler.uncertain)
        assert world.store.get("b.com") is others[0]
        assert world.store.get("c.com") is others[1]
        assert {t for t in counts if world.loader.loads[t] != counts[t]} == {"a.com"}

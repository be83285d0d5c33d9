from jwks_server.host.mounts import mounted_kinds

TABLE = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 27 0:21 / /proc rw - proc proc rw
40 27 0:40 / /srv rw shared:1 - tmpfs tmpfs rw
41 40 0:41 / /srv/keys rw shared:1 master:2 - xfs /dev/vdb rw
42 41 0:42 / /srv/keys/foo.com rw - nfs4 server:/export rw
43 27 0:43 / /with\\040space rw - fuse.sshfs host rw
44 27 0:44 / /srv/keys-of-others rw - cifs share rw
"""


def test_the_holding_file_system_and_those_mounted_below_count() -> None:
    """And no other, whatever its name begins with."""
    assert mounted_kinds(TABLE, "/srv/keys") == ("xfs", "nfs4")
    assert mounted_kinds(TABLE, "/srv/keys/bar.com") == ("xfs",)
    assert mounted_kinds(TABLE, "/srv/other") == ("tmpfs",)
    assert mounted_kinds(TABLE, "/etc") == ("ext4",)


def test_escaped_names_are_read_and_later_mounts_cover_earlier_ones() -> None:
    """As proc(5) writes them."""
    assert mounted_kinds(TABLE, "/with space/x") == ("fuse.sshfs",)
    assert mounted_kinds(TABLE + "45 40 0:45 / /srv rw - btrfs x rw\n", "/srv/x") == ("btrfs",)


def test_a_table_that_says_nothing_gives_nothing() -> None:
    """Then the tree is taken for one with coarse times."""
    assert mounted_kinds("", "/srv") == ()

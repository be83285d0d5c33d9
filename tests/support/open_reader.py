"""A reader process without walls, where it has to write down at its end how much of the code it ran."""

from jwks_server.reading import child

MODULE = "support.open_reader"


def main() -> None:
    """Read jobs as the server's child."""
    child.main(confine=lambda _root, _closed: ())

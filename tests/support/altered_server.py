"""`jwks-server serve` with some parts and delays replaced, for tests of the whole server.

    python -m support.altered_server '{"timing": {"stop": 2.0}, "reader_module": "…", "hanging_root": "FILE"}' serve …

While FILE exists, every look at the root's identity blocks.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from jwks_server.cli import cli, settings_of
from jwks_server.daemon.serve import Parts, serve
from jwks_server.following.rootkeeper import identity_of
from jwks_server.reading.jobs import RootIdentity

MODULE = "support.altered_server"


def main() -> None:
    """Serve with what the first argument says."""
    altered = json.loads(sys.argv[1])
    context = cli.commands["serve"].make_context("serve", sys.argv[3:])
    parts = Parts()
    if "reader_module" in altered:
        parts = replace(parts, reader_module=altered["reader_module"])
    if "hanging_root" in altered:
        hanging = Path(altered["hanging_root"])

        def look(path: str) -> RootIdentity:
            while hanging.exists():
                time.sleep(0.01)
            return identity_of(path)

        parts = replace(parts, look_at_root=look)
    settings = settings_of(context.params)
    serve(replace(settings, timing=replace(settings.timing, **altered.get("timing", {}))), parts)


if __name__ == "__main__":
    main()

"""A reader process that a key file took over, for tests of what it can do.

It is run in the place of `jwks_server.reading.child`. Where a tenant's folder has a file `forge-tenant`, it answers
with an empty set in the name of `victim.com`; with a file `forge-member`, with a set that holds a private member.
"""

import json
from pathlib import Path

from jwks_server.reading import child
from jwks_server.reading.child import answer
from jwks_server.reading.folder import Report
from jwks_server.reading.frames import HEADER_BYTES
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.wire import Job

MODULE = "support.forging_reader"
FORGED_BODY = b'{"keys":[{"kty":"oct","kid":"forged","k":"private"}]}'


def forged_answer(source: Source, job: Job, report: Report) -> bytes:
    """Answer as a reader process does, but for what a tenant's folder says."""
    frame = answer(source, job, report)
    folder = Path(source.root, job.tenant if isinstance(job, LoadJob) else "")
    bodies = {"forge-tenant": b'{"keys":[]}', "forge-member": FORGED_BODY}
    body = next((body for name, body in bodies.items() if (folder / name).exists()), None)
    if body is None:
        return frame
    end = HEADER_BYTES + int.from_bytes(frame[4:8])
    header, blobs = json.loads(frame[HEADER_BYTES:end]), frame[end:]
    header["publication"]["tenant"] = "victim.com"
    blobs = body + blobs[header["body_bytes"] :]
    header["body_bytes"] = len(body)
    text = json.dumps(header).encode()
    return (HEADER_BYTES + len(text) + len(blobs)).to_bytes(4) + len(text).to_bytes(4) + text + blobs


def main() -> None:
    """Read jobs as the server's child."""
    child.main(forged_answer)

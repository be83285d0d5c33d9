"""Looking into what a tenant publishes."""

import json

from jwks_server.core.publication import Publication


def kids_of(publication: Publication) -> set[str]:
    """Return the key ids that a tenant publishes; none where it publishes nothing."""
    body = publication.key_set.body if publication.key_set else b'{"keys":[]}'
    return {key["kid"] for key in json.loads(body)["keys"]}

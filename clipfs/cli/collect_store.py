"""`clipfs cache collect --content-cache URL`: what was removed from an object store, in words.

Not here: which layers go (`clipfs.tiers.content.collection`).
"""

import click

from clipfs import errors
from clipfs.cli.output import print_json
from clipfs.cli.sizes import human_bytes
from clipfs.tiers.content.bucket import NoAnswer, NoBucket, NotAllowed, Odd


def collect_store(url: str, max_bytes: int, as_json: bool, *, ca_pem: str = "") -> None:
    """Collect the store at url, and say so.

    ca_pem  CAs that it is trusted by, beside the node's own
    Raises  InvalidInput; NodeFault
    """
    from clipfs.tiers.content.collection import collect  # obstore, which other commands do without

    try:
        found = collect(url, max_bytes, ca_pem=ca_pem)
    except NotAllowed as refused:
        raise errors.InvalidInput(
            f"{url}: {refused}: these credentials may not list, write and delete there; give others"
        ) from None
    except NoBucket as missing:
        raise errors.InvalidInput(f"{url}: {missing}") from None
    except (NoAnswer, Odd) as error:
        raise errors.NodeFault(f"{url}: {error}; what was removed so far stays removed") from None
    if as_json:
        removed = [
            {
                "cache_key": layer.cache_key,
                "bytes": layer.bytes,
                "last_stored_s": layer.last_stored.timestamp(),
            }
            for layer in found.removed
        ]
        print_json(
            {"removed": removed, "bytes": found.kept_bytes, "excess_bytes": found.excess_bytes}
        )
        return
    freed = sum(layer.bytes for layer in found.removed)
    click.echo(
        f"{len(found.removed)} layers removed, {human_bytes(freed)}; "
        f"{human_bytes(found.kept_bytes)} stay"
    )
    if found.excess_bytes:
        click.echo(
            f"{human_bytes(found.excess_bytes)} over the limit, but stored within the last hour"
        )

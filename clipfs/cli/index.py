"""`clipfs index`: fill the tiers for an image, mount nothing."""

import time
from pathlib import Path
from typing import Any

import click
import trio

from clipfs.cli import logs, options, progress
from clipfs.cli.output import print_json
from clipfs.cli.report import described, totals
from clipfs.cli.settings import chosen_platform, tier_settings
from clipfs.cli.sizes import human_bytes
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference, parse_reference
from clipfs.mount.prepare import Prepared, prepared, share_image_index, workers_at_hand
from clipfs.tiers.settings import TierSettings


@click.command()
@click.argument("image")
@options.root_option
@options.image_options
@click.option(
    "--progress-fd",
    type=int,
    hidden=True,  # for the driver, which shows people how far it is
)
@options.log_fields_option
@options.json_option
@options.log_options
def index(
    image: str,
    platform: str | None,
    progress_fd: int | None,
    log_fields: str,
    as_json: bool,
    root: Path,
    **given: Any,
) -> None:
    """Index IMAGE: returns when its layers that are on this node are in the content cache.

    An index comes from the nearest tier; a layer is downloaded if no tier knows it, or if nobody
    knows yet that the image's registry has it.
    """
    begin = time.perf_counter()
    reference = parse_reference(image)
    logs.add_fields_said(log_fields)
    teller = progress.Teller(progress_fd)
    with workers_at_hand(root, reference), progress.shown() as on_progress:
        settings = tier_settings(root=root, **given)
        tell = progress.both(on_progress, teller.on_progress)
        found = trio.run(indexed, settings, reference, chosen_platform(platform), tell)
    total_s = time.perf_counter() - begin
    if as_json:
        print_json(described(found, settings, total=total_s))
        return
    entries, total_bytes = totals(found)
    click.echo(
        f"{found.image.reference} is indexed: {len(found.layers)} layers, "
        f"{entries} entries, {human_bytes(total_bytes)}, {total_s:.2f} s"
    )


async def indexed(
    settings: TierSettings,
    reference: Reference,
    platform: Platform,
    on_progress: progress.OnProgress,
) -> Prepared:
    """The indexed image; the content cache, if there is one, has what this node has of it."""
    async with prepared(settings, reference, platform, on_progress=on_progress) as (image, tiers):
        if tiers.storer is not None:
            await tiers.storer.store_missing(image.layers)
            await tiers.storer.drain()
        share_image_index(image, tiers)
        if tiers.mender is not None:
            await tiers.mender.drain()
    return image

"""`clipfs index`: fill the tiers for an image, mount nothing."""

import time
from pathlib import Path
from typing import Any

import click
import trio

from clipfs.cli import options, progress
from clipfs.cli.output import human_bytes, print_json
from clipfs.cli.report import described, totals
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference, parse_reference
from clipfs.mount import counters
from clipfs.mount.groups import lone_error_unwrapped
from clipfs.mount.prepare import Prepared, prepare, resolve
from clipfs.tiers.stack import TierHooks, TierSettings, open_tiers
from clipfs.tiers.storer import left_behind


@click.command()
@click.argument("image")
@options.root_option
@options.image_options
@options.json_option
@options.log_options
def index(image: str, platform: str | None, as_json: bool, root: Path, **given: Any) -> None:
    """Index IMAGE: returns when its layers are on disk and stored in the content cache."""
    begin = time.perf_counter()
    reference = parse_reference(image)
    settings = options.tier_settings(root=root, **given)
    with progress.shown() as on_progress:
        prepared = trio.run(
            indexed, settings, reference, options.chosen_platform(platform), on_progress
        )
    total_s = time.perf_counter() - begin
    if as_json:
        print_json(described(prepared, settings, total=total_s))
        return
    entries, total_bytes = totals(prepared)
    click.echo(
        f"{prepared.image.reference} is indexed: {len(prepared.layers)} layers, "
        f"{entries} entries, {human_bytes(total_bytes)}, {total_s:.2f} s"
    )


async def indexed(
    settings: TierSettings,
    reference: Reference,
    platform: Platform,
    on_progress: progress.OnProgress,
) -> Prepared:
    """The indexed image, its layers stored in the content cache if there is one."""
    with lone_error_unwrapped(), counters.open_own(settings.layout) as own:
        hooks = TierHooks(on_read=own.add, on_progress=on_progress)
        async with settings.open_registry() as registry:
            image, resolve_s = await resolve(registry, reference, platform)
            async with open_tiers(settings, registry, image.reference, hooks=hooks) as tiers:
                prepared = await prepare(image, tiers, settings, resolve_s=resolve_s)
                if tiers.storer is not None:
                    for layer in left_behind(settings.layout, prepared.layers):
                        tiers.storer.store_soon(layer)
                    await tiers.storer.drain()
    return prepared

"""`clipfs mount`: an image becomes a tree; the server stays behind."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import trio

from clipfs.cli import options, progress
from clipfs.cli.output import human_bytes, print_json, printable
from clipfs.cli.report import described, totals
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference, parse_reference
from clipfs.layer.use import InUse
from clipfs.mount.daemon import leave_behind
from clipfs.mount.mountpoint import check_mountpoint, made_mountpoint, real_mountpoint
from clipfs.mount.prepare import Prepared, prepared
from clipfs.mount.server import serve
from clipfs.tiers.stack import TierSettings
from clipfs.tiers.storing import left_behind, mark_storing
from clipfs.tiers.tier import IndexedLayer


@click.command()
@click.argument("image")
@click.argument("mountpoint", type=options.unseen_path)
@options.root_option
@options.image_options
@options.front_option
@click.option("--foreground", is_flag=True, help="Serve in this process, log to its stderr.")
@click.option(
    "--log-to",
    type=click.Choice(["file", "stderr"]),
    default="file",
    hidden=True,  # for the driver, whose container's log is where people look
)
@options.json_option
@options.log_options
def mount(
    image: str,
    mountpoint: Path,
    platform: str | None,
    front: str,
    foreground: bool,
    log_to: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Mount IMAGE at MOUNTPOINT, read-only; returns when the tree is readable.

    MOUNTPOINT is made if absent; it must be empty and not a mount.
    """
    begin = time.perf_counter()
    options.check_front(front)
    reference = parse_reference(image)
    settings = options.tier_settings(**given, launched=log_to == "stderr")
    where = real_mountpoint(mountpoint)
    check_mountpoint(where)
    wanted = options.chosen_platform(platform)
    # to the command's end: by then the mount's record is written
    in_use = click.get_current_context().with_resource(InUse(settings.layout))
    with progress.shown() as on_progress:
        found, to_store = trio.run(_prepared, settings, reference, wanted, on_progress, in_use)
    mount_begin = time.perf_counter()

    def say(pid: int) -> None:
        now = time.perf_counter()
        seconds = {"mount": now - mount_begin, "total": now - begin}
        _say(found, settings, where, pid, seconds, as_json)

    def run(on_ready: Callable[[], None]) -> None:
        for layer in to_store:
            mark_storing(settings.layout, layer.cache_key)  # in the process that will store it

        async def main() -> None:
            await serve(found, settings, where, to_store=to_store, on_ready=on_ready)

        trio.run(main)

    with made_mountpoint(where):
        if foreground:
            run(lambda: say(os.getpid()))
        else:
            folder = settings.layout.run / "log" if log_to == "file" else None
            say(leave_behind(run, log_folder=folder))


async def _prepared(
    settings: TierSettings,
    reference: Reference,
    platform: Platform,
    on_progress: progress.OnProgress,
    in_use: InUse,
) -> tuple[Prepared, list[IndexedLayer]]:
    """The indexed image, and the layers that its server is to store in the content cache."""
    filled: list[IndexedLayer] = []
    async with prepared(
        settings,
        reference,
        platform,
        on_progress=on_progress,
        on_filled=filled.append,
        in_use=in_use,
    ) as (image, _):
        pass
    if settings.content_cache_url is None:
        return image, []
    return image, filled + left_behind(settings.layout, image.layers)


def _say(
    found: Prepared,
    settings: TierSettings,
    mountpoint: Path,
    pid: int,
    seconds: Mapping[str, float],
    as_json: bool,
) -> None:
    if as_json:
        print_json({**described(found, settings, **seconds), "front": "fuse", "pid": pid})
        return
    entries, total_bytes = totals(found)
    click.echo(
        f"{found.image.reference} is at {printable(str(mountpoint))}: {entries} entries, "
        f"{human_bytes(total_bytes)}, {seconds['total']:.2f} s, served by process {pid}"
    )

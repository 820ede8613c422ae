"""`clipfs mount`: its options, and the image prepared; `clipfs.cli.showing` has it appear."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click
import trio

from clipfs import errors
from clipfs.cache.limits import Limits
from clipfs.cli import logs, options, progress
from clipfs.cli.limits import limit_options, limits_of
from clipfs.cli.output import print_json, printable
from clipfs.cli.report import described, totals
from clipfs.cli.settings import chosen_platform, tier_settings
from clipfs.cli.sizes import human_bytes
from clipfs.image.driver import CredentialsSocket
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference, parse_reference
from clipfs.image.resolved import load
from clipfs.layer.use import InUse
from clipfs.mount import counters
from clipfs.mount.figures import TIERS
from clipfs.mount.front import Wanted
from clipfs.mount.mountpoint import check_mountpoint, real_mountpoint
from clipfs.mount.prepare import Prepared, prepared, side_by_side, workers_at_hand
from clipfs.mount.syscalls import check_context
from clipfs.tiers.content.opening import load_content_store, store_at_hand
from clipfs.tiers.settings import TierSettings
from clipfs.tiers.stack import Tiers
from clipfs.tiers.storing import left_behind
from clipfs.tiers.tier import IndexedLayer


@click.command()
@click.argument("image")
@click.argument("mountpoint", type=options.unseen_path)
@options.root_option
@options.image_options
@options.front_option
@options.background_fill_option
@limit_options
@click.option(
    "--foreground",
    is_flag=True,
    help="Serve in this process, log to its stderr; auto is fuse then.",
)
@click.option(
    "--log-to",
    type=click.Choice(["file", "stderr"]),
    default="file",
    hidden=True,  # for the driver, whose container's log is where people look
)
@click.option(
    "--resolved",
    type=click.Path(path_type=Path),
    hidden=True,  # the driver's, which has asked the registry: what IMAGE, a digest, is
)
@options.log_fields_option
@click.option(
    "--credentials-socket",
    type=options.unseen_path,
    hidden=True,  # the driver's: who may connect to it can be given credentials
)
@click.option("--credentials-of", metavar="VOLUME", default="", hidden=True)
@click.option(
    "--progress-fd",
    type=int,
    hidden=True,  # for the driver, which shows people how far it is
)
@options.json_option
@options.log_options
def mount(
    image: str,
    mountpoint: Path,
    platform: str | None,
    front: Wanted,
    mount_context: str | None,
    background_fill: Literal["off", "touched", "all"],
    max_bytes: int | None,
    min_free: Limits | None,
    foreground: bool,
    log_to: str,
    resolved: Path | None,
    log_fields: str,
    credentials_socket: Path | None,
    credentials_of: str,
    progress_fd: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Mount IMAGE at MOUNTPOINT, read-only; returns when the tree is readable.

    MOUNTPOINT is made if absent; it must be empty and not a mount.
    """
    begin = time.perf_counter()
    check_context(mount_context)
    reference = parse_reference(image)
    where = real_mountpoint(mountpoint)
    logs.hear_others()
    if log_to == "stderr":  # where lines of many servers meet
        logs.add_fields({"image": str(reference), "mountpoint": str(where)})
        logs.add_fields_said(log_fields)
    check_mountpoint(where)
    on_platform = chosen_platform(platform)
    known = load(resolved, reference) if resolved is not None else None
    teller = progress.Teller(progress_fd)
    wanted: Wanted = "fuse" if foreground and front == "auto" else front
    with workers_at_hand(given["root"], reference):
        settings = replace(
            tier_settings(**given, launched=log_to == "stderr"),
            driver=_driver(credentials_socket, credentials_of, reference),
        )
        if front == "erofs":
            from clipfs.mount.kernel import check_kernel

            check_kernel(settings.layout)
        # to the command's end: by then the mount's record is written
        in_use = click.get_current_context().with_resource(InUse(settings.layout))
        store = store_at_hand(settings.content_cache_urls, ca_pem=settings.ca_pem)
        with store, progress.shown() as on_progress:
            found, to_store = trio.run(
                partial(_prepared, in_use=in_use, resolved=known, wanted=wanted),
                settings,
                reference,
                on_platform,
                progress.both(on_progress, teller.on_progress),
                teller,
            )
    from clipfs.cli.showing import Showing  # has been loaded beside a merge

    mount_begin = time.perf_counter()

    def say(pid: int | None) -> None:
        now = time.perf_counter()
        seconds = {"mount": now - mount_begin, "total": now - begin}
        _say(found, settings, where, pid, seconds, as_json)

    Showing(
        image=found,
        settings=settings,
        mountpoint=where,
        to_store=to_store,
        front=wanted,
        context=mount_context,
        background_fill=background_fill,
        limits=limits_of(max_bytes, min_free),
        foreground=foreground,
        log_folder=settings.layout.run / "log" if log_to == "file" else None,
    ).show(say)


def _driver(path: Path | None, volume: str, reference: Reference) -> CredentialsSocket | None:
    """Who has other credentials; the driver mounts images by their digests."""
    if path is None:
        return None
    if reference.digest is None:
        raise errors.InvalidInput("--credentials-socket: the image must be named by its digest")
    return CredentialsSocket(path=path.absolute(), image=reference.digest, volume=volume)


async def _prepared(
    settings: TierSettings,
    reference: Reference,
    platform: Platform,
    on_progress: progress.OnProgress,
    teller: progress.Teller,
    *,
    in_use: InUse,
    resolved: Image | None,
    wanted: Wanted,
) -> tuple[Prepared, list[IndexedLayer]]:
    """The indexed image, and the layers that a process left behind is to store in tier 2.

    wanted  `erofs` brings every layer to this disk whole
    """
    filled: list[IndexedLayer] = []

    async with prepared(
        settings,
        reference,
        platform,
        on_progress=on_progress,
        on_filled=filled.append,
        meanwhile=partial(_load_server, settings),
        on_merge=partial(teller.begin, "merge"),
        wanted=wanted,
        in_use=in_use,
        resolved=resolved,
    ) as (image, tiers):
        if wanted == "erofs":
            teller.begin("bring")
            distinct = {layer.cache_key: layer for layer in image.layers}
            await side_by_side(partial(_brought, tiers, teller), list(distinct.values()))
        figures = counters.of(settings.layout, os.getpid())
        teller.begin("mount", {tier: figures[tier]["bytes"] for tier in TIERS})
    if not settings.content_cache_urls:
        return image, []
    return image, filled + left_behind(settings.layout, image.layers)


async def _brought(tiers: Tiers, teller: progress.Teller, layer: IndexedLayer) -> None:
    whole_bytes = layer.index.payload_bytes
    await tiers.complete(layer, lambda count: teller.on_brought(layer.layer, count, whole_bytes))


def _load_server(settings: TierSettings) -> None:
    """What a process left behind needs is loaded while another merges, not once it is done."""
    import_module("structlog")  # for its first line
    import_module("clipfs.cli.showing")
    with suppress(ImportError):  # whoever needs it says so
        import_module("clipfs.mount.server")
        load_content_store(settings.content_cache_urls)


def _say(
    found: Prepared,
    settings: TierSettings,
    mountpoint: Path,
    pid: int | None,
    seconds: Mapping[str, float],
    as_json: bool,
) -> None:
    if as_json:
        front = "erofs" if pid is None else "fuse"
        print_json({**described(found, settings, **seconds), "front": front, "pid": pid})
        return
    entries, total_bytes = totals(found)
    by = "the kernel alone" if pid is None else f"process {pid}"
    click.echo(
        f"{found.image.reference} is at {printable(str(mountpoint))}: {entries} entries, "
        f"{human_bytes(total_bytes)}, {seconds['total']:.2f} s, served by {by}"
    )

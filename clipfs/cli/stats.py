"""`clipfs stats`: what the tiers of this node have served, and its mounts."""

from pathlib import Path
from typing import Any

import click

from clipfs import errors
from clipfs.cli import options
from clipfs.cli.output import print_json, printable
from clipfs.cli.sizes import human_bytes
from clipfs.layer.layout import Layout
from clipfs.mount import counters, records
from clipfs.mount.records import MountRecord
from clipfs.tiers.storing import storing_now


@click.command()
@options.root_option
@options.json_option
@options.log_options
def stats(root: Path, as_json: bool) -> None:
    """Reads and bytes by tier since run/ was made, ended servers included; the mounts."""
    layout = Layout(root.absolute())
    if not layout.root.is_dir():
        raise errors.InvalidInput(f"--root {root}: there is no such folder")
    value = collected(layout)
    if as_json:
        print_json(value)
        return
    for tier in ("disk", "content_cache", "registry"):
        row = value[tier]
        click.echo(f"{tier:<14} {row['reads']:>9} reads  {human_bytes(row['bytes']):>11}")
    troubles = value["content_cache"]
    if troubles["errors"] or troubles["verify_failures"]:
        click.echo(
            f"content cache: {troubles['errors']} requests without a usable answer, "
            f"{troubles['verify_failures']} answers that did not verify"
        )
    for key in value["storing"]:
        click.echo(f"storing        {key}")
    for row in value["mounts"]:
        by = f"process {row['pid']}" if row["pid"] else "the kernel alone"
        click.echo(
            f"{printable(row['mountpoint'])}  {row['image']}  {row['front']}  {by}"
            f"{_fill_in_words(row['background_fill'])}"
        )


def _fill_in_words(fill: dict[str, Any]) -> str:
    if fill["state"] == "off":
        return ""
    state = fill["state"].replace("_", " ")
    brought = f"{fill['layers']} layers whole, {human_bytes(fill['bytes'])} brought"
    return f"  background fill: {state}, {brought}"


def collected(layout: Layout) -> dict[str, Any]:
    """What --json prints: sums on top, the living mounts with their own figures."""
    return {
        **counters.sum_all(layout),
        "storing": storing_now(layout),
        "mounts": [_mount(layout, record) for record in records.living(layout)],
    }


def _mount(layout: Layout, record: MountRecord) -> dict[str, Any]:
    """Where the kernel serves alone, nobody counts what it reads from the disk."""
    alone = record.front == "erofs"
    return {
        "image": record.image,
        "digest": record.digest,
        "mountpoint": record.mountpoint,
        "front": record.front,
        "pid": None if alone else record.pid,
        **counters.of(layout, record.pid),
        "background_fill": counters.fill_of(layout, record.pid),
        **({"disk": None} if alone else {}),
    }

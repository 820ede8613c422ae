"""`clipfs ls`: what an image holds, from its index; no payload is read."""

import stat
import time
from pathlib import Path
from typing import Any

import click
import trio

from clipfs import errors
from clipfs.cli import options, progress
from clipfs.cli.index import indexed
from clipfs.cli.output import print_json, printable
from clipfs.cli.settings import chosen_platform, tier_settings
from clipfs.image.reference import parse_reference
from clipfs.tree.paths import resolve
from clipfs.tree.reader import ImageIndex, Inode


@click.command()
@click.argument("image")
@click.argument("path", default="/")
@options.root_option
@options.image_options
@options.json_option
@options.log_options
def ls(
    image: str, path: str, platform: str | None, as_json: bool, root: Path, **given: Any
) -> None:
    """List PATH of IMAGE: a folder's entries, or one file."""
    reference = parse_reference(image)
    settings = tier_settings(root=root, **given)
    with progress.shown() as on_progress:
        prepared = trio.run(indexed, settings, reference, chosen_platform(platform), on_progress)
    with ImageIndex.open(prepared.index_path) as index:
        rows = _rows(index, path, image)
    if as_json:
        listed = {"image": str(reference), "digest": prepared.image.digest, "path": path}
        print_json({**listed, "entries": rows})
        return
    for row in rows:
        click.echo(_line(row))


def _rows(index: ImageIndex, path: str, image: str) -> list[dict[str, Any]]:
    raw = path.encode("utf-8", "surrogateescape")
    nid = resolve(index, raw, follow_last=False)
    folder = resolve(index, raw)
    if folder is not None and stat.S_ISDIR(index.inode(folder).mode):
        nid = folder  # also behind a symlink, as ls(1) does
    elif raw.endswith(b"/"):
        nid = None
    if nid is None:
        raise errors.ImageNotFound(
            f"{image}: no such path in the image: {printable(path)}; "
            f"`clipfs ls {image}` shows its root"
        )
    inode = index.inode(nid)
    if not stat.S_ISDIR(inode.mode):
        return [_row(index, raw.rpartition(b"/")[2], inode)]
    return [
        _row(index, entry.name, index.inode(entry.nid))
        for _, entry in index.list(nid)
        if entry.name not in (b".", b"..")
    ]


def _row(index: ImageIndex, name: bytes, inode: Inode) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name.decode("utf-8", "surrogateescape"),
        "mode": stat.filemode(inode.mode),
        "links": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
    }
    if stat.S_ISLNK(inode.mode):
        row["target"] = index.target(inode.nid).decode("utf-8", "surrogateescape")
    return row


def _line(row: dict[str, Any]) -> str:
    when = _date(row["mtime_ns"])
    target = f" -> {printable(row['target'])}" if "target" in row else ""
    return (
        f"{row['mode']} {row['links']:>3} {row['uid']:>5} {row['gid']:>5} {row['size']:>11} "
        f"{when} {printable(row['name'])}{target}"
    )


def _date(mtime_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(mtime_ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):  # a year that the C library does not know
        return f"@{mtime_ns // 1_000_000_000}"

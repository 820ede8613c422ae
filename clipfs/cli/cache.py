"""`clipfs cache`: what a node has cached, whether it is right, and how it gets rid of it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clipfs import errors
from clipfs.cache.collect import collect as collected
from clipfs.cache.inventory import Item, inventory
from clipfs.cache.limits import Limits
from clipfs.cache.verify import Verdict
from clipfs.cache.verify import verify as verified
from clipfs.cli import options
from clipfs.cli.collect_store import collect_store
from clipfs.cli.limits import limit_options, limits_of
from clipfs.cli.output import print_json, printable
from clipfs.cli.sizes import human_bytes
from clipfs.image.tls import load_ca_file
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.mount.root import ready_root


@click.group()
def cache() -> None:
    """What this node has cached: list it, verify it, collect it."""


@cache.command("list")
@options.root_option
@options.json_option
@options.log_options
def list_(root: Path, as_json: bool) -> None:
    """Layers and image indexes: size, last use, how much is here, which mounts use it."""
    items = inventory(_existing(root))
    if as_json:
        print_json(
            {
                "bytes": sum(item.bytes for item in items),
                "layers": [_row(item) for item in items if item.kind == "layer"],
                "images": [_row(item) for item in items if item.kind == "image"],
            }
        )
        return
    for item in sorted(items, key=lambda one: one.last_use_ns):
        state = item.state if item.kind == "layer" else "image"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.last_use_ns / 1e9))
        users = "".join(f"  {printable(user)}" for user in item.users)
        click.echo(f"{item.key}  {state:<8}  {human_bytes(item.bytes):>10}  {used}{users}")


@cache.command()
@options.root_option
@options.index_key_option
@options.json_option
@options.log_options
def verify(root: Path, index_key_file: Path | None, as_json: bool) -> None:
    """Read every complete payload against its index; a wrong one is removed, and exit code 1.

    So is what was rebuilt of it for the kernel, against the payload.
    """
    layout = _existing(root)
    keys = KeyRing.from_file(index_key_file) if index_key_file else _own_keys(layout)
    verdicts: list[Verdict] = []
    for verdict in verified(layout, keys):
        verdicts.append(verdict)
        if not as_json and verdict.is_ != "right":
            _say(verdict)
    wrong = [one for one in verdicts if one.is_ == "wrong"]
    message = (
        f"{len(wrong)} of {len(verdicts)} payloads, or what belongs to them, are wrong, "
        "and were removed"
    )
    if as_json:
        print_json({"layers": [_verdict_row(one) for one in verdicts], **_error(wrong, message)})
    elif not wrong:
        click.echo(f"{len(verdicts)} payloads, none of them wrong")
    if wrong:
        click.echo(f"clipfs: {message}", err=True)
        raise click.exceptions.Exit(1)


@cache.command()
@options.root_option
@limit_options
@click.option(
    "--content-cache",
    metavar="URL",
    help="Collect this object store instead: s3://bucket/prefix, gs://, az://; --max-bytes of it.",
)
@options.ca_file_option
@options.json_option
@options.log_options
def collect(
    root: Path,
    max_bytes: int | None,
    min_free: Limits | None,
    content_cache: str | None,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Remove what was used least recently until the limits hold; never what is in use.

    Without a limit: only what can be of no use any more. An object store does not tell what is
    used: there the layers go that were stored longest ago, but none of the last hour.
    """
    if content_cache is not None:
        if max_bytes is None or min_free is not None:
            raise click.UsageError("--content-cache goes with --max-bytes, and no other limit")
        ca_pem = load_ca_file(ca_file) if ca_file else ""
        collect_store(content_cache, max_bytes, as_json, ca_pem=ca_pem)
        return
    if ca_file is not None:
        raise click.UsageError("--ca-file goes with --content-cache: a node's cache has no server")
    layout = _existing(root)
    ready_root(layout)
    found = collected(layout, limits_of(max_bytes, min_free))
    if as_json:
        print_json(
            {
                "removed": [{**_row(item), "kind": item.kind} for item in found.removed],
                "bytes": found.kept_bytes,
                "free_bytes": found.free_bytes,
                "excess_bytes": found.excess_bytes,
            }
        )
        return
    freed = sum(item.bytes for item in found.removed)
    click.echo(
        f"{len(found.removed)} removed, {human_bytes(freed)}; {human_bytes(found.kept_bytes)} "
        f"stay, {human_bytes(found.free_bytes)} are free"
    )
    if found.excess_bytes:
        click.echo(f"{human_bytes(found.excess_bytes)} over the limit, but all of it is in use")


def _existing(root: Path) -> Layout:
    if not root.is_dir():
        raise errors.InvalidInput(f"--root {root}: there is no such folder")
    layout = Layout(root.absolute())
    if not layout.cache.is_dir():
        raise errors.InvalidInput(
            f"--root {root} has no cache/ in it, so nothing was ever mounted from it; name the "
            "folder that mounts have as --root"
        )
    return layout


def _own_keys(layout: Layout) -> KeyRing:
    """The node's own; one that has none yet has signed nothing, and nothing is made for it."""
    path = layout.index / "key"
    return KeyRing.from_file(path) if path.exists() else KeyRing(())


def _row(item: Item) -> dict[str, Any]:
    row = {
        "cache_key": item.key,
        "bytes": item.bytes,
        "last_use_s": item.last_use_ns / 1e9,
        "in_use_by": list(item.users),
    }
    return {**row, "state": item.state} if item.kind == "layer" else row


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    return {"cache_key": verdict.item.key, "is": verdict.is_, "why": verdict.why}


def _error(wrong: Sequence[Verdict], message: str) -> dict[str, Any]:
    return {"error": {"code": errors.CorruptImage.code, "message": message}} if wrong else {}


def _say(verdict: Verdict) -> None:
    click.echo(f"{verdict.item.key} is {verdict.is_}: {verdict.why}")
    if verdict.is_ == "wrong":
        for user in verdict.item.users:
            click.echo(f"  in use by {printable(user)}: unmount it and mount it again")

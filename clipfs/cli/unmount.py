"""`clipfs unmount`: the tree goes, and its server with it."""

from pathlib import Path

import click

from clipfs.cli import options
from clipfs.cli.output import print_json
from clipfs.layer.layout import Layout
from clipfs.mount.unmount import unmount as unmount_tree

SERVER_END_S = 10
"""How long to wait for the server's end; it may go on storing in the content cache."""


@click.command()
@click.argument("mountpoint", type=options.unseen_path)
@options.root_option
@options.json_option
@options.log_options
def unmount(mountpoint: Path, root: Path, as_json: bool) -> None:
    """Unmount the image at MOUNTPOINT. Done already is done; a dead mount cannot hang it."""
    unmount_tree(Layout(root.absolute()), mountpoint, wait_s=SERVER_END_S)
    if as_json:
        print_json({"mountpoint": str(mountpoint)})

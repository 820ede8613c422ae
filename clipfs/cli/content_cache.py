"""`clipfs content-cache serve`: the cluster's content cache, one replica."""

from pathlib import Path

import click
import structlog
import trio

from clipfs import errors
from clipfs.cli import options
from clipfs.cli.output import print_json
from clipfs.content.server import serve as serve_objects
from clipfs.content.store import Store
from clipfs.content.tokens import Tokens
from clipfs.system.groups import lone_error_unwrapped

log = structlog.get_logger()


@click.group("content-cache")
def content_cache() -> None:
    """The content cache: pages of layers, shared by the cluster."""


@content_cache.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the objects lie; made if absent.",
)
@click.option("--listen", metavar="HOST:PORT", required=True, help="Port 0: any free one.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Its first line is the token that may write and read.",
)
@click.option(
    "--read-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its first line is a second token, which may only read.",
)
@options.json_option
@options.log_options
def serve(
    directory: Path, listen: str, token_file: Path, read_token_file: Path | None, as_json: bool
) -> None:
    """Serve objects until SIGTERM; requests in flight are finished."""
    host, port = _address(listen)
    write_token = options.read_token(token_file)
    read_token = options.read_token(read_token_file) if read_token_file else None
    if read_token == write_token:
        raise errors.InvalidInput("--read-token-file holds the write token; it must differ")

    try:
        store = Store(directory)
    except OSError as error:
        raise errors.InvalidInput(f"--dir {directory}: {error.strerror}") from error

    def on_listening(bound_host: str, bound_port: int) -> None:
        log.info("content cache is listening", host=bound_host, port=bound_port)
        if as_json:
            print_json({"host": bound_host, "port": bound_port})

    async def main() -> None:
        tokens = Tokens(write=write_token, read=read_token)
        await serve_objects(store, host, port, tokens, on_listening=on_listening)

    with lone_error_unwrapped():
        try:
            trio.run(main)
        except OSError as error:
            raise errors.InvalidInput(f"--listen {listen}: {error.strerror or error}") from error


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise errors.InvalidInput(f"--listen {listen!r}: say HOST:PORT")
    return host.strip("[]"), int(port)

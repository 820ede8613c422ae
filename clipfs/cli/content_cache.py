"""`clipfs content-cache serve`: the cluster's content cache, one replica."""

import shutil
from contextlib import closing
from pathlib import Path

import click

from clipfs import errors
from clipfs.cli import options
from clipfs.cli.limits import byte_count
from clipfs.cli.output import print_json
from clipfs.cli.settings import token_of
from clipfs.content import server
from clipfs.content.counters import Counters
from clipfs.content.keys import PAGE_BYTES
from clipfs.content.misses import Misses
from clipfs.content.store import Store
from clipfs.content.tls import TlsFiles
from clipfs.content.tokens import Tokens
from clipfs.content.worker import Shared
from clipfs.log import log


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
    type=options.FILE,
    required=True,
    help="Its first line is the token that may write and read.",
)
@click.option(
    "--read-token-file",
    type=options.FILE,
    help="Its first line is a second token, which may only read.",
)
@click.option(
    "--max-bytes",
    type=byte_count,
    metavar="N",
    help="What all objects may take together; 512Mi, 20Gi. Beyond it the least recently used "
    "layers go, until 90 % are left.  [default: no limit]",
)
@click.option(
    "--tls-cert",
    type=options.FILE,
    help="Serve https with this certificate (PEM, with its chain); SIGHUP reads it again.",
)
@click.option(
    "--tls-key",
    type=options.FILE,
    help="The certificate's key (PEM, without a password).",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help=f"Processes that serve; by default one a core, at most {server.MOST_BY_DEFAULT}.",
)
@options.json_option
@options.log_options
def serve(
    directory: Path,
    listen: str,
    token_file: Path,
    read_token_file: Path | None,
    max_bytes: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Serve objects until SIGTERM; requests in flight are finished."""
    address = _address(listen)
    write_token = token_of(token_file)
    read_token = token_of(read_token_file) if read_token_file else None
    if read_token == write_token:
        raise errors.InvalidInput("--read-token-file holds the write token; it must differ")

    tls = _tls(tls_cert, tls_key)

    try:
        store = Store.open(directory, max_bytes=max_bytes)
    except OSError as error:
        raise errors.InvalidInput(f"--dir {directory}: {errors.node_fault(error)}") from error
    _warn_of_odd_limit(directory, max_bytes)
    try:
        listeners = server.open_listeners(*address)
    except OSError as error:
        raise errors.InvalidInput(f"--listen {listen}: {error.strerror or error}") from error
    shared = Shared(
        listeners=listeners,
        store=lambda: Store.attach(directory, max_bytes=max_bytes),
        after_death=store.remove_abandoned,
        tokens=Tokens(write=write_token, read=read_token),
        misses=Misses(),
        counters=Counters(workers or server.default_workers()),
        tls=tls,
    )

    def on_listening() -> None:
        host, port = listeners[0].getsockname()[:2]
        count = len(shared.counters.workers)
        log.info("content cache is listening", host=host, port=port, workers=count)
        if as_json:
            print_json({"host": host, "port": port})

    with closing(store):
        server.serve(shared, on_listening)


def _warn_of_odd_limit(directory: Path, max_bytes: int | None) -> None:
    if max_bytes is None:
        return
    disk_bytes = shutil.disk_usage(directory).total
    if max_bytes < PAGE_BYTES:
        log.warning(
            "--max-bytes is less than one page: most of what comes is refused; write 20Gi for GiB",
            max_bytes=max_bytes,
            page_bytes=PAGE_BYTES,
        )
    elif max_bytes > disk_bytes:
        log.warning(
            "--max-bytes is more than the disk holds: once that is full nothing makes room",
            max_bytes=max_bytes,
            disk_bytes=disk_bytes,
        )


def _tls(cert: Path | None, key: Path | None) -> TlsFiles | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "--tls-cert" if cert is None else "--tls-key"
        raise errors.InvalidInput(f"TLS needs both files: say {missing} too")
    return TlsFiles(cert, key)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise errors.InvalidInput(f"--listen {listen!r}: say HOST:PORT")
    return host.strip("[]"), int(port)

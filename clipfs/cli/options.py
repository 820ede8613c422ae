"""The options that commands share, and what they become: settings, read from their files.

Each decorator adds its options to a click command; `tier_settings` takes those of
`root_option` and `image_options` by name. Files are read here, once, so that nothing below
opens an option.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import structlog

from clipfs import errors
from clipfs.cli import logs
from clipfs.image.credentials import RegistryConfig, load_registry_config
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.platform import Platform, host_platform, parse_platform
from clipfs.image.tls import load_ca_file
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.mount.root import ready_root
from clipfs.tiers.settings import TierSettings

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def unseen_path(text: str) -> Path:
    """A path that is not looked at: click.Path would ask a mount whose server is dead or frozen."""
    if not text:
        raise click.BadParameter("the path is empty")
    return Path(text)


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for one in reversed(decorators):
            command = one(command)
        return command

    return decorate


def _configure_logs(context: click.Context, option: click.Parameter, value: str) -> str:
    chosen = context.meta.setdefault("clipfs.logs", {"log_format": "text", "log_level": "info"})
    chosen[option.name] = value
    logs.configure(chosen["log_format"], chosen["log_level"])
    return value


def log_options(command: F) -> F:
    return _all(
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            callback=_configure_logs,
            expose_value=False,
            help="How log lines on stderr look.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(logs.LEVELS),
            default="info",
            show_default=True,
            callback=_configure_logs,
            expose_value=False,
            help="The least level that is logged.",
        ),
    )(command)


def json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there."
    )(command)


def root_option(command: F) -> F:
    return click.option(
        "--root",
        type=unseen_path,
        metavar="DIR",
        default=Path("/images"),
        show_default=True,
        help="Where payloads, indexes and state lie; shared by all images of the node.",
    )(command)


def front_option(command: F) -> F:
    """How trees are shown, and under which label."""
    return _all(
        click.option(
            "--front",
            type=click.Choice(["auto", "erofs", "fuse"]),
            default="auto",
            show_default=True,
            help="How trees are shown: erofs, by the kernel alone, from layers that are whole on "
            "this disk; fuse, by a server; auto: erofs where that can be at once.",
        ),
        click.option(
            "--mount-context",
            metavar="SELINUX_CONTEXT",
            help="The SELinux context of all files in a mount.",
        ),
    )(command)


def background_fill_option(command: F) -> F:
    return click.option(
        "--background-fill",
        type=click.Choice(["off", "touched", "all"]),
        default="off",
        show_default=True,
        help="What a server brings to this disk behind the reads: the rest of each layer that a "
        "read has touched, or all layers; as far as --max-bytes and --min-free leave room "
        "(10% of the disk stay free without --min-free).",
    )(command)


def index_key_option(command: F) -> F:
    return click.option(
        "--index-key-file",
        type=_FILE,
        metavar="F",
        help="Keys that sign layer indexes, one a line: the first signs, all verify. "
        "Absent: the node's own key, and no index is shared.",
    )(command)


def image_options(command: F) -> F:
    """Tiers, registry and platform: for every command that takes an image."""
    return _all(
        click.option(
            "--content-cache",
            "content_cache",
            metavar="URL",
            multiple=True,
            help="http(s)://host:port of the content cache; repeatable, and a name with several "
            "addresses is several replicas; none: tier 2 is off.",
        ),
        click.option(
            "--content-cache-token-file",
            type=_FILE,
            metavar="F",
            help="Its first line is the content cache's token.",
        ),
        index_key_option,
        click.option(
            "--platform",
            metavar="OS/ARCH[/VARIANT]",
            help="Which image of a manifest list.  [default: this machine's]",
        ),
        click.option(
            "--registry-config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A docker config.json with the registries' credentials.",
        ),
        click.option(
            "--plain-http",
            metavar="HOST[:PORT]",
            multiple=True,
            help="A registry that speaks plain HTTP; repeatable.",
        ),
        click.option(
            "--mirrors",
            type=_FOLDER,
            metavar="DIR",
            help="Registries' mirrors, in containerd's layout: DIR/HOST[:PORT]/hosts.toml.",
        ),
        click.option(
            "--ca-file",
            type=_FILE,
            metavar="F",
            help="CAs, in PEM form, that registries and the content cache are trusted by, beside "
            "the node's own.",
        ),
    )(command)


def tier_settings(
    *,
    root: Path,
    content_cache: tuple[str, ...],
    content_cache_token_file: Path | None,
    index_key_file: Path | None,
    registry_config: Path | None,
    plain_http: tuple[str, ...],
    ca_file: Path | None,
    mirrors: Path | None,
    launched: bool = False,
    **_: object,
) -> TierSettings:
    """The options as values; InvalidInput names the option or file that is wrong.

    launched  by the driver, which has warned of what is off
    """
    layout = Layout(root.absolute())
    try:
        ready_root(layout)
    except OSError as error:
        if errors.is_the_disks(error):
            raise errors.node_fault(error) from error
        raise errors.InvalidInput(f"--root {root}: {error.strerror}") from error
    if not content_cache and not launched:
        log.warning("ContentCache not configured")
    return TierSettings(
        layout=layout,
        keys=(
            KeyRing.from_file(index_key_file)
            if index_key_file
            else KeyRing.own(layout.index / "key")
        ),
        registry_config=(
            load_registry_config(registry_config) if registry_config else RegistryConfig.empty()
        ),
        plain_http=frozenset(plain_http),
        ca_pem=load_ca_file(ca_file) if ca_file else "",
        mirrors=Mirrors(checked_folder(mirrors)) if mirrors else NO_MIRRORS,
        content_cache_urls=content_cache_urls(content_cache),
        content_cache_token=(
            read_token(content_cache_token_file) if content_cache_token_file else None
        ),
    )


def checked_folder(path: Path) -> Path:
    """InvalidInput unless there is such a folder: mirrors that are passed over are not seen."""
    if not path.is_dir():
        raise errors.InvalidInput(f"--mirrors {path}: there is no such folder")
    return path.absolute()


def content_cache_urls(given: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of one content cache; InvalidInput says what is wrong with one."""
    urls = tuple(dict.fromkeys(_content_cache_url(one) for one in given))
    if len(urls) > 1 and any(_is_object_store(url) for url in urls):
        raise errors.InvalidInput("--content-cache: an object store is given alone")
    return urls


def _is_object_store(url: str) -> bool:
    return url.startswith(("s3://", "gs://", "az://"))


def _content_cache_url(given: str) -> str:
    if _is_object_store(given):
        return given  # judged by `clipfs.tiers.content.obstore_bucket`, which opens it
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        good = good and (parts.path in ("", "/") and not parts.query and not parts.fragment)
    except ValueError:  # half an IPv6 address, or a port that is none
        good = False
    if not good:
        raise errors.InvalidInput(
            f"--content-cache {given}: write http://host:port or https://host:port, or an object "
            "store: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
        )
    if "@" in parts.netloc:
        raise errors.InvalidInput(
            "--content-cache: no name or password here; say --content-cache-token-file"
        )
    return given.rstrip("/")


def read_token(path: Path) -> str:
    """The first line of a token file; InvalidInput if there is none."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise errors.InvalidInput(f"token file {path}: {reason}") from error
    if not lines or not lines[0].strip():
        raise errors.InvalidInput(f"token file {path}: its first line is empty, not a token")
    return lines[0].strip()


def chosen_platform(text: str | None) -> Platform:
    return parse_platform(text) if text else host_platform()

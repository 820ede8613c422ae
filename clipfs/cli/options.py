"""The options that commands share. Each decorator adds its options to a click command.

Not here: what becomes of them (`clipfs.cli.settings`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from clipfs.cli import logs

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
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


log_fields_option = click.option(
    "--log-fields",
    metavar="JSON",
    default="{}",
    hidden=True,  # the driver's, in whose log lines of many images meet: whose volume it is for
)


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
        type=FILE,
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
            "addresses is several replicas. Or one object store, s3://bucket/prefix, gs://, az://, "
            "with the environment's credentials. None: tier 2 is off.",
        ),
        click.option(
            "--content-cache-token-file",
            type=FILE,
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
        ca_file_option,
    )(command)


def ca_file_option(command: F) -> F:
    return click.option(
        "--ca-file",
        type=FILE,
        metavar="F",
        help="CAs, in PEM form, that registries and the content cache are trusted by, beside "
        "the node's own.",
    )(command)

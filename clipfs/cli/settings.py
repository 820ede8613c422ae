"""What the options that commands share become: values, read from their files.

Files are read here, once, so that nothing below opens an option. `tier_settings` takes those of
`root_option` and `image_options` (`clipfs.cli.options`) by name.
"""

from pathlib import Path
from urllib.parse import urlsplit

from clipfs import errors
from clipfs.image.credentials import RegistryConfig, load_registry_config
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.platform import Platform, host_platform, parse_platform
from clipfs.image.tls import load_ca_file
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.log import log
from clipfs.mount.root import ready_root
from clipfs.tiers.content.environment import address as object_store_address
from clipfs.tiers.content.environment import is_object_store
from clipfs.tiers.settings import TierSettings


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
        registry_config=_credentials(registry_config),
        plain_http=frozenset(plain_http),
        ca_pem=load_ca_file(ca_file) if ca_file else "",
        mirrors=Mirrors(checked_folder(mirrors)) if mirrors else NO_MIRRORS,
        content_cache_urls=content_cache_urls(content_cache),
        content_cache_token=(
            token_of(content_cache_token_file) if content_cache_token_file else None
        ),
    )


def _credentials(path: Path | None) -> RegistryConfig:
    if path is None:
        return RegistryConfig.empty()
    found = load_registry_config(path)
    for what in found.unused.values():
        log.warning("a part of the registry config is not used", what=what)
    return found


def checked_folder(path: Path) -> Path:
    """InvalidInput unless there is such a folder: mirrors that are passed over are not seen."""
    if not path.is_dir():
        raise errors.InvalidInput(f"--mirrors {path}: there is no such folder")
    return path.absolute()


def content_cache_urls(given: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of one content cache; InvalidInput says what is wrong with one."""
    urls = tuple(dict.fromkeys(_content_cache_url(one) for one in given))
    if len(urls) > 1 and any(is_object_store(url) for url in urls):
        raise errors.InvalidInput("--content-cache: an object store is given alone")
    return urls


def _content_cache_url(given: str) -> str:
    if is_object_store(given):
        object_store_address(given)
        return given
    try:
        parts = urlsplit(given)
        if "@" in parts.netloc:
            raise errors.InvalidInput(
                "--content-cache: no name or password here; say --content-cache-token-file"
            )
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        good = good and (parts.path in ("", "/") and not parts.query and not parts.fragment)
    except ValueError:  # half an IPv6 address, or a port that is none
        good = False
    if not good:
        raise errors.InvalidInput(
            f"--content-cache {given}: write http://host:port or https://host:port, or an object "
            "store: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
        )
    return given.rstrip("/")


def token_of(path: Path) -> str:
    """The first line of a token file; InvalidInput if there is none."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise errors.InvalidInput(f"token file {path}: {reason}") from error
    if not lines or not lines[0].strip():
        raise errors.InvalidInput(f"token file {path}: its first line is empty, not a token")
    token = lines[0].strip()
    if not token.isprintable():
        raise errors.InvalidInput(f"token file {path}: its first line holds control characters")
    return token


def chosen_platform(text: str | None) -> Platform:
    return parse_platform(text) if text else host_platform()

"""AWS's shared files: credentials, region and endpoint of a profile, which obstore does not read.

The credentials count where the environment has none of its own, as in AWS's tools. They are read
again every REREAD_S, so that a Secret that is rotated reaches a running server.

Not here: web identities, container and instance roles (obstore's own).
Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".
"""

import configparser
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import S3Credential  # exists for type checkers only

REREAD_S = 300
"""A rotated key is withdrawn later than that."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_OWN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


def store_options() -> dict[str, Any]:
    """What an S3Store is to be told of the files, as far as the environment says nothing."""
    said = _profile()
    options: dict[str, Any] = {}
    if "region" in said and not _any_of("AWS_REGION", "AWS_DEFAULT_REGION"):
        options["region"] = said["region"]
    if "endpoint_url" in said and not _any_of(*ENDPOINTS):
        options["endpoint"] = said["endpoint_url"]
    if "aws_access_key_id" in said and not _any_of(*_OWN):
        options["credential_provider"] = _credentials
    return options


def _any_of(*names: str) -> bool:
    return any(os.environ.get(name) for name in names)


def _profile() -> Mapping[str, str]:
    """All that the files say of it; one that is not there, or is none, says nothing."""
    profile = os.environ.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    for variable, name, section in [
        ("AWS_CONFIG_FILE", "config", "default" if profile == "default" else f"profile {profile}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile),
    ]:
        path = os.environ.get(variable) or Path("~/.aws").expanduser() / name
        parser = configparser.ConfigParser(interpolation=None, default_section="")
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        if parser.has_section(section):
            found |= parser[section]
    return found


def _credentials() -> "S3Credential":
    """Raises KeyError if there are none any more."""
    said = _profile()
    return {
        "access_key_id": said["aws_access_key_id"],
        "secret_access_key": said["aws_secret_access_key"],
        "token": said.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + timedelta(seconds=REREAD_S),
    }

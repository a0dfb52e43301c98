"""S3 as this project reaches it: endpoint, region and credentials the standard way, and retries.

Endpoint and region come from a URI's options, else from where botocore finds them (AWS_ENDPOINT_URL,
AWS_REGION, the profile of AWS_PROFILE); credentials from the AWS SDK inside pyarrow: environment, profile,
web identity, container or machine role. A profile that takes a role (role_arn with source_profile) or signs
on (sso) is beyond that SDK: botocore gets its keys, which stay in this process.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from drel_core.errors import InputError

_OPTIONS = ("endpoint_override", "region", "scheme")
_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
)
_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_ROLES = ("role_arn", "sso_session", "sso_start_url")
Keys = tuple[str, str, str]
"""Access key, secret key and session token."""
_SHARED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    "DREL_SCRATCH",
)
# The SDK waits 0, 50, 100, 200, … ms between attempts: ten of them outlast 25 s.
_ATTEMPTS = 10
_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN_ID",
    "UNRECOGNIZED_CLIENT",
    "HTTP status 403",
)


class S3(pafs.S3FileSystem):
    """pyarrow's, with this project's settings; they also hold where it is sent to another process.

    Of the SDK's two retry strategies the default one: it repeats 500 and 503, dropped connections and
    answers that break off, each time. The standard one stops doing so once its quota is spent
    (docs/log.md).
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        attempts: int,
        keys: Keys | None = None,
        background: bool = True,
    ) -> None:
        self._settings = (endpoint, region, attempts)
        super().__init__(
            endpoint_override=endpoint or None,
            region=region,
            retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=attempts),
            allow_delayed_open=True,  # a small file is one request, there whole or not at all
            background_writes=background,
            **dict(zip(("access_key", "secret_key", "session_token"), keys or (), strict=False)),
        )

    def __reduce__(self) -> Any:
        return _sent, self._settings  # without keys: another process gets its own


@lru_cache(maxsize=64)
def _open(
    endpoint: str, region: str, attempts: int, keys: Keys | None, background: bool = True
) -> S3:
    return S3(endpoint, region, attempts, keys, background)


def _sent(endpoint: str, region: str, attempts: int) -> S3:
    return _open(endpoint, region, attempts, _keys_of_role())


class _Renewed(pafs.FileSystemHandler):
    """The same, opened anew with each request: for those who keep a filesystem longer than the keys of a
    role are good."""

    def __init__(self, endpoint: str, region: str, attempts: int) -> None:
        self.settings = (endpoint, region, attempts)

    @property
    def now(self) -> S3:
        # Whoever copies in several threads takes those that background writes would wait for.
        return _open(*self.settings, _keys_of_role(), background=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Renewed) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.settings)

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self.now.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self.now.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.now.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.now.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.now.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise OSError("a whole bucket is not deleted")

    def delete_file(self, path: str) -> None:
        self.now.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self.now.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.now.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.now.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.now.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict[str, str] | None) -> pa.NativeFile:
        return self.now.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str] | None) -> pa.NativeFile:
        raise OSError("S3 has no way to append")


def is_s3(path: str) -> bool:
    return path.startswith("s3://")


def open_s3(uri: str, more_attempts: int = 0) -> tuple[S3, str]:
    """Filesystem and ``bucket/key`` of ``s3://bucket/key?options``; connections are shared by all callers.

    Args:
        more_attempts: each doubles how long S3 may be gone.

    Raises:
        InputError: not such a URI, or nobody can say in which region the bucket lies.
    """
    place, _, query = uri.removeprefix("s3://").partition("?")
    bucket, _, key = place.partition("/")
    if "@" in bucket or ":" in bucket:
        raise InputError(
            f"s3://…/{key}: keys in a URI end up in logs; give them by AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or by a profile"
        )
    if not bucket:
        raise InputError(f"{uri}: names no bucket; write s3://BUCKET/PATH")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(_OPTIONS))
    if unknown:
        raise InputError(
            f"s3://{place}: unknown option {unknown[0]!r}; known are {', '.join(_OPTIONS)}"
        )
    endpoint, region = _configured(*(os.environ.get(name) for name in _VARIABLES))
    endpoint = options.get("endpoint_override", endpoint)
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    region = options.get("region") or ((region or "us-east-1") if endpoint else _region_of(bucket))
    filesystem = _open(endpoint, region, _attempts() + more_attempts, _keys_of_role())
    return filesystem, f"{bucket}/{unquote(key)}".rstrip("/")


def keep_s3(uri: str, more_attempts: int = 0) -> tuple[pafs.FileSystem, str]:
    """The same for who keeps the filesystem: its keys are renewed, also those of a profile's role."""
    filesystem, name = open_s3(uri, more_attempts)
    if _keys_of_role() is None:  # the SDK renews all others
        return filesystem, name
    return pafs.PyFileSystem(_Renewed(*filesystem._settings)), name


@lru_cache(maxsize=16)
def _configured(*_: str | None) -> tuple[str, str]:
    """Endpoint and region as botocore finds them, empty where nothing says; looked up again when one
    of ``_VARIABLES`` changes."""
    import botocore.session
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError

    try:
        session = botocore.session.get_session()
        found = ConfiguredEndpointProvider(
            full_config=session.full_config,
            scoped_config=session.get_scoped_config(),
            client_name="s3",
        ).provide()
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            found = None
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except BotoCoreError as error:  # no such profile, a config file that cannot be parsed
        raise InputError(f"AWS configuration: {error}") from None
    return found or "", region or ""


def _keys_of_role() -> Keys | None:
    """Keys of the role that the profile takes, renewed before they end; None where it takes none.

    Raises:
        InputError: the role cannot be taken.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    names = (*_VARIABLES, "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_STS")
    try:
        credentials = _role(*(os.environ.get(name) for name in names))
        found = None if credentials is None else credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        raise InputError(
            f"AWS profile {os.environ.get('AWS_PROFILE', 'default')}: its role cannot be taken "
            f"({' '.join(str(error).split())[:200]}); check role_arn and source_profile, or sign on again"
        ) from None
    return None if found is None else (found.access_key, found.secret_key, found.token or "")


@lru_cache(maxsize=16)
def _role(*_: str | None) -> Any:
    """botocore's credentials where only it can get them; looked up again when a variable changes."""
    import botocore.session

    session = botocore.session.get_session()
    if not any(name in session.get_scoped_config() for name in _ROLES):
        return None
    credentials = session.get_credentials()
    return None if credentials is None or credentials.method == "env" else credentials


@lru_cache(maxsize=64)
def _region_of(bucket: str) -> str:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"s3://{bucket}: its region cannot be found ({str(error)[:200]}); check the bucket's name, or "
            "set AWS_ENDPOINT_URL where S3 is not Amazon's"
        ) from None


def _attempts() -> int:
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(given) if given.isdigit() and int(given) else _ATTEMPTS


def shared_environment() -> dict[str, str]:
    """Variables that all nodes of a cluster need as the driver has them. Keys are not among them: a runtime
    environment is shown in logs and on the dashboard, so nodes have their own role or secret."""
    return {name: os.environ[name] for name in _SHARED if name in os.environ}


def key_environment() -> tuple[str | None, ...]:
    """The variables that decide where S3 is and with which keys: who keeps a client makes another one when
    one changes."""
    return tuple(os.environ.get(name) for name in (*_VARIABLES, *_KEY_VARIABLES))


def reach(uri: str) -> None:
    """Make sure that endpoint, credentials and bucket are good, before anything waits for them.

    Raises:
        InputError: they are not; it says which, within some seconds.
    """
    endpoint = find_endpoint(uri)
    filesystem, name = open_s3(uri)
    with unreachable(uri), denied(uri):
        if filesystem.get_file_info(name).type != pafs.FileType.NotFound:
            return
        bucket = name.partition("/")[0]
        if filesystem.get_file_info(bucket).type != pafs.FileType.NotFound:
            return
    at = f" at {endpoint}" if endpoint else ""
    raise InputError(f"{uri}: there is no bucket {bucket!r}{at}; make it, or check the name")


def find_endpoint(uri: str) -> str:
    """The endpoint of an address, empty for Amazon's own, once it has taken a connection: a request to one
    that is gone is repeated for half a minute.

    Raises:
        InputError: nobody answers there.
    """
    endpoint: str = open_s3(uri)[0]._settings[0]
    if endpoint:
        _connect(endpoint)
    return endpoint


@contextmanager
def unreachable(uri: str) -> Iterator[None]:
    """What goes wrong on the way to S3, after all attempts, becomes one line.

    Raises:
        InputError: S3 did not do what was asked for.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{uri}: S3 cannot be reached ({str(error)[:200]})") from None


def _connect(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    try:
        place = (parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme, 443))
    except ValueError:
        raise InputError(f"{endpoint}: not an address of S3; check AWS_ENDPOINT_URL") from None
    for attempt in range(3):
        try:
            socket.create_connection(place, timeout=5).close()
            return
        except OSError as error:
            if attempt == 2:
                raise InputError(
                    f"{endpoint}: no S3 answers there ({error.strerror or error}); check "
                    "AWS_ENDPOINT_URL, or the endpoint of your AWS profile"
                ) from None
            time.sleep(0.5)


@contextmanager
def denied(uri: str) -> Iterator[None]:
    """What S3 refuses becomes one line; everything else passes through.

    Raises:
        InputError: the credentials are not good for this, or there is no such bucket.
    """
    try:
        yield
    except OSError as error:
        text = str(error)
        if any(code in text for code in _DENIED):
            raise InputError(
                f"{uri}: S3 refuses access; check the credentials (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or this machine's role) and what they may do"
            ) from None
        if "NO_SUCH_BUCKET" in text:
            raise InputError(
                f"{uri}: there is no such bucket; make it, or check the name"
            ) from None
        raise

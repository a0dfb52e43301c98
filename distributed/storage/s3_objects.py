"""Requests to S3 that pyarrow has none of: objects with their ETags, written under a condition.

By botocore, with endpoint, region and credentials as ``s3`` finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from distributed.storage.s3 import denied, key_environment, open_s3
from drel_core.errors import InputError

Answer = TypeVar("Answer")
_OBJECT_ATTEMPTS = 6  # about 15 s


class ConditionFailed(Exception):
    """The object is another one than the request expected."""


@lru_cache(maxsize=16)
def _client(endpoint: str, region: str, *_: str | None) -> Any:
    """botocore's, which renews its keys; made again when a variable changes."""
    from botocore.config import Config
    from botocore.session import get_session

    return get_session().create_client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        config=Config(
            retries={"total_max_attempts": _OBJECT_ATTEMPTS, "mode": "legacy"},
            connect_timeout=5,
            read_timeout=20,
            s3={"addressing_style": "path"} if endpoint else {},
        ),
    )


class _Requests:
    """Requests that pyarrow has none of.

    Args:
        uri: as ``open_s3`` takes it.
    """

    def __init__(self, uri: str) -> None:
        filesystem, place = open_s3(uri)
        endpoint, region, _ = filesystem._settings
        self.uri = uri
        self.bucket, _, self.key = place.partition("/")
        self.client = _client(endpoint, region, *key_environment())

    def patiently(self, read: Callable[[], Answer]) -> Answer:
        """What ``read`` gives; a body that breaks off is asked for again.

        Raises:
            OSError: S3 does not answer.
        """
        from botocore.exceptions import HTTPClientError

        for attempt in range(_OBJECT_ATTEMPTS):
            try:
                return read()
            except HTTPClientError as error:
                if attempt == _OBJECT_ATTEMPTS - 1:
                    raise OSError(f"{self.uri}: S3 does not answer ({error})") from None
        raise AssertionError

    def ask(self, what: str, **given: Any) -> Any:
        """
        Raises:
            ConditionFailed, FileNotFoundError: what was asked for is another object, or not there.
            InputError: S3 refuses access.
            OSError: it does not answer.
        """
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            HTTPClientError,
            ResponseStreamingError,
        )

        try:
            with denied(self.uri):
                try:
                    return getattr(self.client, what)(Bucket=self.bucket, **given)
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status in (409, 412):
                        raise ConditionFailed from None
                    if code in ("NoSuchKey", "404"):
                        raise FileNotFoundError(self.uri) from None
                    shown = "NO_SUCH_BUCKET" if code == "NoSuchBucket" else code
                    raise OSError(f"HTTP status {status}, {shown}") from None
        except BotoCoreError as error:
            if type(error) in (HTTPClientError, ResponseStreamingError):
                raise  # a body that broke off, which botocore does not ask for again
            raise OSError(f"S3 does not answer: {error}") from None


@dataclass(frozen=True)
class Listed:
    """An object: its name below what was listed, its ETag, and when it was written, in seconds since 1970."""

    name: str
    etag: str
    time: float


def list_objects(uri: str, below: bool = True) -> list[Listed]:
    """The object at an address, else those below it, with their ETags, which pyarrow does not list.

    Args:
        below: also what lies in folders of the folder.

    Raises:
        InputError: no such bucket, or S3 refuses access.
        OSError: S3 does not answer.
    """
    requests = _Requests(uri)
    key = requests.key

    def page(**given: Any) -> Any:
        return requests.patiently(lambda: requests.ask("list_objects_v2", **given))

    def listed(name: str, one: dict[str, Any]) -> Listed:
        return Listed(name, one["ETag"].strip('"'), one["LastModified"].timestamp())

    if key:
        with suppress(FileNotFoundError, InputError):  # no such object, or it must not be asked for
            return [listed(key.rpartition("/")[2], requests.ask("head_object", Key=key))]
    prefix = f"{key}/" if key else ""
    found: list[Listed] = []
    more: dict[str, str] = {} if below else {"Delimiter": "/"}
    while True:
        answer = page(Prefix=prefix, **more)
        found += [
            listed(one["Key"][len(prefix) :], one)
            for one in answer.get("Contents", ())
            if not one["Key"].endswith("/")  # which stands for a folder
        ]
        if not answer.get("IsTruncated"):
            return found
        more = {**more, "ContinuationToken": answer["NextContinuationToken"]}


class S3Object(_Requests):
    """One small object by requests with conditions."""

    def read(self) -> tuple[bytes | None, str]:
        """Content and ETag; None where it is not there."""

        def ask() -> tuple[bytes | None, str]:
            answer = self.ask("get_object", Key=self.key)
            return answer["Body"].read(), answer["ETag"]

        try:
            return self.patiently(ask)
        except FileNotFoundError:
            return None, ""

    def write(self, data: bytes, expected: str) -> None:
        """Write it if its ETag is still ``expected``, "" for an object that is not there.

        Raises:
            ConditionFailed: it is not.
        """
        condition = {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}
        self.ask("put_object", Key=self.key, Body=data, **condition)

    def remove(self) -> None:
        self.ask("delete_object", Key=self.key)

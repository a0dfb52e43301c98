"""The body of a request: read whole, within a limit, and unpacked."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from distributed.serving.schemas import ApiError

_DRAINED = 8  # times the limit: bytes of a body that is too large which are read all the same
_ENCODINGS = ("gzip", "x-gzip", "deflate")
_IN_THREAD = 64 << 10  # bytes of a packed body; a larger one would hold up the event loop


def header(request: Request, name: bytes) -> str:
    """The values of a header, joined by commas; empty without one. Starlette's own way takes 10 us.

    Args:
        name: in lower case, as ASGI has them.
    """
    found = [value for key, value in request.scope["headers"] if key == name]
    return b",".join(found).decode("latin-1") if found else ""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, unpacked where its Content-Encoding is gzip or deflate.

    Args:
        limit: most bytes, as sent and as unpacked.

    Raises:
        ApiError: 413, more than ``limit`` bytes. The rest is still read, up to a point, because a client
            that is cut off while it sends does not see the answer. 415, another encoding; 400, the body is
            not in the encoding that it names.
        ClientDisconnect: the client went away before the end of the body.
    """
    encoding = _encoding(header(request, b"content-encoding"))
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > _DRAINED * limit:
            break
    if size > limit:
        raise _too_large("the body", limit)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not encoding:
        return body
    if size > _IN_THREAD:
        return await asyncio.to_thread(_unpacked, body, encoding, limit)
    return _unpacked(body, encoding, limit)


def _encoding(told: str) -> str:
    """How the body is packed, from what Content-Encoding says; empty where it is not.

    Raises:
        ApiError: 415, in a way that is not known, or in several.
    """
    told = told.lower()
    named = [name for part in told.split(",") if (name := part.strip()) not in ("", "identity")]
    if len(named) > 1 or any(name not in _ENCODINGS for name in named):
        raise ApiError(
            415,
            "unsupported_encoding",
            f"content encoding {told!r}; send the body unpacked, or in gzip or deflate",
        )
    return named[0] if named else ""


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises:
    ApiError: see ``read_body``.
    """
    unpacker = zlib.decompressobj(15 + 32)  # takes the headers of both encodings
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(400, "bad_encoding", f"the body is no {encoding}: {error}") from None
    if len(data) > limit:
        raise _too_large("the unpacked body", limit)
    if not unpacker.eof:
        raise ApiError(400, "bad_encoding", f"the {encoding} body ends too early")
    if unpacker.unused_data:
        more = len(unpacker.unused_data)
        raise ApiError(400, "bad_encoding", f"{more} bytes follow the end of the {encoding} body")
    return data


def _too_large(what: str, limit: int) -> ApiError:
    return ApiError(
        413, "too_large", f"{what} is above the limit of {limit} bytes; send less at a time"
    )

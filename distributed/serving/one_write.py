"""An answer leaves a replica in one piece.

uvicorn writes the head of an answer and its body in turn, two system calls, and HAProxy passes the head on at
once. A replica that is killed between them leaves its client with half an answer, which cannot be asked for
elsewhere: 4 of 24 kills under load cost a request so (docs/log.md). uvicorn takes another protocol class
(``uvicorn.Config(http=...)``), but Serve makes that configuration itself, so that the class which it takes is
changed here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LONGEST_HEAD = 16 << 10


class OneWrite:
    """A transport that writes the head of an answer together with what follows it. Not for WebSockets.

    What is held back is written before anything else happens to the connection, and at the latest when the
    event loop comes round again.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        """Whatever else a transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
            return
        if data.startswith(b"HTTP/1.1 ") and len(data) < _LONGEST_HEAD:
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write what is held back."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()


def hold_heads() -> None:
    """All of uvicorn's connections of this process, from now on."""
    plain = HttpToolsProtocol.connection_made
    if getattr(plain, "holds_heads", False):
        return

    def connection_made(self: HttpToolsProtocol, transport: asyncio.Transport) -> None:
        plain(self, transport)
        self.transport = OneWrite(transport)  # type: ignore[assignment]

    connection_made.holds_heads = True  # type: ignore[attr-defined]
    HttpToolsProtocol.connection_made = connection_made  # type: ignore[method-assign]

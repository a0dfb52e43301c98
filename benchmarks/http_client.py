"""HTTP as the load generators speak it: a connection that stays, and no more parsing than is needed."""

from __future__ import annotations

import asyncio


def request(path: str, body: bytes, kind: str, head: str = "", host: str = "127.0.0.1") -> bytes:
    """A POST.

    Args:
        head: further header lines, each with its line end.
    """
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Connection:
    """Made when it is needed, and anew after the server has closed it or something failed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, sent: bytes) -> tuple[int, bytes, bytes]:
        """Status, head in lower case, and body.

        Raises:
            OSError: no connection, or it broke.
            EOFError: the server closed it before the end of its answer.
        """
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        answered = False
        try:
            self.writer.write(sent)
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            body = await self.reader.readexactly(size)
            answered = b"connection: close" not in head
        finally:
            if not answered:
                self.close()
        return int(head.split(b" ", 2)[1]), head, body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

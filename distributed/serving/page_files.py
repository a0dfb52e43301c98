"""The page to try the scorer on: files of ``page/``, served at ``/`` and ``/page/NAME``.

They are others' reading too: nothing in them is secret, and the page asks for the token itself.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

_FOLDER = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    # Names of tags and files are others' words: should one ever become an element, nothing of it would run.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    "script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the files of two versions do not fit together
}
PAGE = {
    "/" if file.name == "index.html" else f"/page/{file.name}": file
    for file in sorted(_FOLDER.iterdir())
    if file.suffix in _KINDS
}
"""The file of each path."""

page = APIRouter(include_in_schema=False)


def _add(path: str, file: Path) -> None:
    kind = f"{_KINDS[file.suffix]}; charset=utf-8"

    async def answer() -> Response:
        return Response(file.read_bytes(), media_type=kind, headers=_HEADERS)

    page.add_api_route(path, answer, methods=["GET"])


for _path, _file in PAGE.items():
    _add(_path, _file)

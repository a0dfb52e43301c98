"""Writes the generated pages: make docs

tests/test_docs.py fails where one differs from what this would write.
"""

from __future__ import annotations

from pathlib import Path

from docs.generate.http import http_page
from docs.generate.llms import llms_page
from docs.generate.options import options_page

DOCS = Path(__file__).resolve().parent.parent
PAGES = {
    "reference/options.md": options_page,
    "reference/http.md": http_page,
    "llms.txt": llms_page,  # last: it has the first lines of the pages above
}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()

"""JSON as inputs hold it: a text that cannot be written as UTF-8 is refused where it is read."""

from __future__ import annotations

import json
import re
from typing import Any

_MAY_BE_LONE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(data: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is not UTF-8, or holds half of a surrogate pair (as ``"\\ud83d"`` alone,
            which stands for no character).
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    value = json.loads(text)
    if _MAY_BE_LONE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value

"""Tags that were added by name at a running scorer, kept until jobs.update takes them into a bundle.

A folder ``tags`` in that of the feedback, local or on s3://: JSON files, each written whole or not at all,
with the names, their text vectors and where these come from. So replicas and updates need no source of them.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.storage.files import write_bytes
from distributed.storage.folder import Folder
from drel_core.bundle.sorted_names import sort_names
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag

FOLDER = "tags"
LARGEST = 64 << 20
"""Bytes of a file that are read."""


@dataclass(frozen=True)
class AddedNames:
    """Names and their text vectors.

    Args:
        source: of the vectors.
        vector_nd: float32.
    """

    source: str
    names: tuple[str, ...]
    vector_nd: Tensor


def append_names(feedback: str, added: AddedNames) -> None:
    """Write a new file; on return it has reached the disk.

    Raises:
        OSError: it could not be written; nothing of it is there.
    """
    content = {
        "source": added.source,
        "tags": [
            {"tag": name, "vector": vector}
            for name, vector in zip(added.names, added.vector_nd.tolist(), strict=True)
        ],
    }
    name = f"tags-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    place = Folder.of(feedback) / FOLDER
    write_bytes(place.file(name), json.dumps(content).encode(), durable=True)


class NameReader:
    """Reads the names of a feedback folder; a file that was read is not read again.

    Args:
        feedback: folder or s3:// prefix.
    """

    def __init__(self, feedback: str) -> None:
        self.folder = Folder.of(feedback) / FOLDER
        self._read: dict[str, AddedNames] = {}

    def files(self) -> list[AddedNames]:
        """All files, in order of time.

        Raises:
            InputError: one is damaged.
            OSError: the folder cannot be read.
        """
        found = {name: size for name, size in self.folder.files().items() if _is_file(name)}
        for name, size in found.items():
            if name not in self._read:
                if size > LARGEST:
                    raise InputError(
                        f"{self.folder}/{name}: {size} bytes; at most {LARGEST} are read"
                    )
                self._read[name] = _parsed(self.folder.read(name) or b"", f"{self.folder}/{name}")
        self._read = {name: self._read[name] for name in sorted(found)}
        return list(self._read.values())

    def names(
        self, known: frozenset[str] | set[str], source: str, dim: int, rules: TagRules | None = None
    ) -> AddedNames | None:
        """What a model does not know yet, each tag once; None where there is nothing.

        Args:
            known: tags of the model.
            source, dim: of the model's text vectors; names with others are left out.
            rules: of the model. It may have got them after a name was added: that may be another spelling of
                a tag now, or blocked.
        """
        vectors: dict[str, Tensor] = {}
        for part in self.files():
            if part.source == source and part.vector_nd.shape[1] == dim:
                for tag, place in sort_names(part.names, known, rules).fresh.items():
                    vectors.setdefault(tag, part.vector_nd[place])
        if not vectors:
            return None
        return AddedNames(source, tuple(vectors), torch.stack(list(vectors.values())))


def _is_file(name: str) -> bool:
    return name.startswith("tags-") and name.endswith(".json") and "/" not in name


def _parsed(data: bytes, where: str) -> AddedNames:
    try:
        content = json.loads(data)
        source, rows = content["source"], content["tags"]
        names: Sequence[str] = tuple(clean_tag(row["tag"]) for row in rows)
        vector_nd = torch.tensor([row["vector"] for row in rows], dtype=torch.float32)
        fits = isinstance(source, str) and all(names) and vector_nd.dim() == 2
        if not fits or not math.isfinite(float(vector_nd.sum())):
            raise ValueError("names or vectors are missing")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: damaged ({error}); remove it") from None
    return AddedNames(source, tuple(names), vector_nd)

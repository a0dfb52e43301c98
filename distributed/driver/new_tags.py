"""Where the embeddings of new tags start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from scipy import sparse
from torch import Tensor

from distributed.bundles.unseen_tags import BundleText, NamedTags
from distributed.data.canonical_tags import TagIndex, encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection, flat_tags, read_table
from distributed.driver.update_config import UpdateConfig
from distributed.storage.folder import Folder
from distributed.training.tag_text import RunText
from distributed.training.warm_start import NEW_ROWS, ParentBundle, Start, read_rows_of
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.tensor_files import open_tensors
from drel_core.bundle.text_vectors import TAG_TEXT, text_source
from drel_core.model.towers import ModelConfig, init_embedding_rows

FEW_IMAGES = 10
"""With so many images a tag's name adds nothing (docs/log.md)."""


def init_new_tags(
    parent: ParentBundle,
    names: pa.Array | TagIndex,
    count_T: np.ndarray,
    selections: Sequence[RowSelection],
    columns: Columns,
    model: ModelConfig,
    start: StartBy,
    seed: int,
) -> None:
    """Choose where new tags start, and write their file.

    random: as at the start of training, from (seed, tag id). co-occurring: the mean of the rows of old
    tags on the same images, each by its number of common images over the root of its own count, plus
    a random row, so that no two tags start alike. text: what their names let expect, which is short
    (``NameMap.expected``), plus a random row; those without a text vector, and those on enough images
    (``StartBy``), at random.
    """
    new = np.arange(parent.num_tags, len(names))
    rows_nE = init_embedding_rows(torch.from_numpy(new), model, seed)
    if start.kind == "co-occurring":
        common_nT = _co_occurrence(names, parent.num_tags, selections, columns)
        weight_nT = common_nT @ sparse.diags_array(
            1 / np.sqrt(np.maximum(count_T[: parent.num_tags], 1.0))
        )
        total_n = np.asarray(weight_nT.sum(1)).reshape(-1)
        share_nT = sparse.diags_array(1 / np.maximum(total_n, 1e-12)) @ weight_nT
        mean_nE = np.zeros((len(new), model.tag_dim))
        block = 65536  # old rows are read a block at a time: the table may be larger than memory
        for low in range(0, parent.num_tags, block):
            high = min(low + block, parent.num_tags)
            part = share_nT[:, low:high]
            if part.nnz:
                mean_nE += part @ read_rows_of(parent, low, high)[0].double().numpy()
        rows_nE += torch.from_numpy(mean_nE).float()
    if start.kind == "text" and start.source:
        _start_by_name(rows_nE, torch.from_numpy(count_T[parent.num_tags :]), parent, start)
    with Folder.of(parent.out).writing(NEW_ROWS) as path:
        save_file({"weight": rows_nE.contiguous()}, path)


@dataclass(frozen=True)
class StartBy:
    """How new tags start.

    Attributes:
        kind: settled.
        few: with fewer images a tag starts where its name says, else at random; None: with any number.
        source: of text vectors; empty where there are none.
        vector_nd: text vectors of the new tags, zeros where a name has none.
    """

    kind: Start
    few: int | None = None
    source: str = ""
    vector_nd: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    @staticmethod
    def of(
        config: UpdateConfig, parent: ParentBundle, out: Folder, text: RunText | None
    ) -> StartBy:
        """Args:
        text: of the grown vocabulary, in ``out``.
        """
        kind, few = settled_start(config, parent)
        if text is None:
            return StartBy(kind, few)
        with out.local(TAG_TEXT) as path, open_tensors(path) as file:
            vector_nd = file.get_slice("vector")[parent.num_tags :]
        return StartBy(kind, few, text.about["source"], vector_nd)


def settled_start(config: UpdateConfig, parent: ParentBundle) -> tuple[Start, int | None]:
    """What ``auto`` means here: kind and ``few`` of ``StartBy``. At a million images rare tags that began
    near the tags of their images were too loud: they took places of old ones (docs/log.md)."""
    if config.start != "auto":
        return config.start, None
    has_text = bool(config.tags.text or text_source(read_info(parent.folder()).content))
    return ("text", FEW_IMAGES) if has_text else ("random", None)


def start_note(config: UpdateConfig, parent: ParentBundle) -> str:
    """How new tags start, as a run that is taken up again compares it."""
    kind, few = settled_start(config, parent)
    return kind if few is None else f"{kind} below {few} images"


def _start_by_name(rows_nE: Tensor, count_n: Tensor, parent: ParentBundle, text: StartBy) -> None:
    """Add to random rows of new tags with few images what their names let expect, in place."""
    has_n, folder = text.vector_nd.any(1), parent.folder()
    if text.few is not None:
        has_n &= count_n < text.few
    if not bool(has_n.any()):
        return
    info, vocabulary = read_info(folder), read_vocabulary(folder)
    kept = BundleText.of(folder, info, vocabulary, text.source)
    if NamedTags.possible(kept, vocabulary):
        named = NamedTags.of(folder, info, vocabulary, kept)
        rows_nE[has_n] += named.map.expected(text.vector_nd[has_n])


def _co_occurrence(
    names: pa.Array | TagIndex, old: int, selections: Sequence[RowSelection], columns: Columns
) -> sparse.csr_array:
    """Images that carry both, ``[new tags, old tags]``."""
    total = len(names)
    found = sparse.csr_array((total - old, old), dtype=np.float64)
    for selection in selections:
        table = read_table(selection.unit, [columns.tags])
        place = selection.rows() - selection.unit.file_row
        values, offsets = flat_tags(table.column(0).combine_chunks().take(pa.array(place)))
        ids, offsets = encode_tags(values, offsets, names)
        has_BT = sparse.csr_array(
            (np.ones(len(ids)), ids, offsets), shape=(len(offsets) - 1, total)
        )
        found = found + has_BT[:, old:].T @ has_BT[:, :old]
    return found

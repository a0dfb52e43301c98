"""Tags that a model has by name alone: their rows and probabilities, and a bundle with them.

Shapes: T tags of a bundle, S of them with images and text vectors, n new names, d size of text vectors, E
embedding size.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distributed.bundles.finish import write_card
from distributed.bundles.table_parts import TableParts
from distributed.bundles.write import BundleWriter
from distributed.data.canonical_tags import encode_tags
from distributed.data.feature_store import flat_tags
from distributed.data.replay_buffer import RESERVOIR
from distributed.storage.folder import Folder
from drel_core.annotators.base import Annotator
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.card import CARD
from drel_core.bundle.format import read_vocabulary, write_bundle
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.text_vectors import TAG_TEXT, TagText, text_source
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.calibration import level
from drel_core.decision.decider import DECISION
from drel_core.decision.held_out import LEAST_ROWS
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.decision.unseen import UnseenScores, fit_unseen
from drel_core.errors import InputError
from drel_core.model.name_map import LEAST_TAGS, MOST_TAGS, NameMap
from drel_core.model.towers import ModelConfig
from drel_core.text.vectors import TextVectors, open_text_vectors

_ROWS, _TAGS = 2000, 1000
"""Images and tags left out that probabilities of unseen tags are learned from."""
_MADE_ANEW = {CARD, "config.json", "vocabulary.json", TAG_TEXT, KERNEL, DECISION}


@dataclass(frozen=True)
class BundleText:
    """Text vectors of a bundle's tags, and where those of new names come from.

    Attributes:
        source: its name.
        tags: of the bundle's tags.
        vectors: of any names; looked for when it is called.
    """

    source: str
    tags: TagText
    vectors: Callable[[Sequence[str]], tuple[Tensor, Tensor]]

    @staticmethod
    def of(folder: Path, info: BundleInfo, vocabulary: Vocabulary, source: str = "") -> BundleText:
        """Of a bundle; computed now where it keeps none, or where another source is asked for.

        Args:
            source: see ``drel_core/text/vectors.py``; empty: the one that the bundle names.

        Raises:
            InputError: neither names a source, the source cannot be opened, or gives other vectors than the
                bundle keeps.
        """
        kept, named = TagText.load(folder, len(vocabulary)), text_source(info.content)
        wanted = source or named
        if not wanted:
            raise InputError(
                f"{folder}: the model keeps no text vectors of its tags' names; say where they come from, "
                "e.g. --tags.text glove"
            )
        opened: list[TextVectors] = []
        compared: list[bool] = []

        def vectors(names: Sequence[str]) -> tuple[Tensor, Tensor]:
            if not opened:
                opened.append(open_text_vectors(wanted))
            if kept is not None and wanted == named and opened[0].dim != kept.dim:
                raise InputError(
                    f"text vectors {wanted}: {opened[0].dim} numbers, but the model keeps vectors of "
                    f"{kept.dim}; give --tags.text the source that it was trained with"
                )
            if kept is not None and wanted == named and not compared:
                tags = kept.some()
                found_nd = opened[0].vectors([vocabulary.names[tag] for tag in tags])[0]
                kept.check_same(tags, found_nd, wanted)
                compared.append(True)
            return opened[0].vectors(names)

        if kept is None or wanted != named:
            kept = TagText.of(vectors(vocabulary.names)[0])
        return BundleText(wanted, kept, vectors)


@dataclass(frozen=True)
class NamedTags:
    """What a bundle makes of names that it has no images of.

    Attributes:
        text: of its tags.
        map: from text vectors to rows.
        tag_S: int64, the tags that the map was fitted to.
        direction: see ``NameMap.fit``.
    """

    text: BundleText
    map: NameMap
    tag_S: Tensor

    @staticmethod
    def possible(text: BundleText, vocabulary: Vocabulary) -> bool:
        """Whether enough of the bundle's tags have images and text vectors."""
        return int(_usable(text, vocabulary).sum()) >= LEAST_TAGS

    @staticmethod
    def of(folder: Path, info: BundleInfo, vocabulary: Vocabulary, text: BundleText) -> NamedTags:
        """Raises:
        InputError: too few of the bundle's tags have images and text vectors.
        """
        count_T = torch.from_numpy(vocabulary.counts)
        usable_T = _usable(text, vocabulary)
        if not NamedTags.possible(text, vocabulary):
            raise InputError(
                f"{folder}: {int(usable_T.sum())} of {len(vocabulary)} tags have images and a text vector "
                f"({text.source}); {LEAST_TAGS} are needed to tell from names what images look like"
            )
        order_T = count_T.masked_fill(~usable_T, 0).argsort(descending=True, stable=True)
        tag_S = order_T[: min(int(usable_T.sum()), MOST_TAGS)]
        model = dict(info.content["model"])
        model.pop("image_dim", None)
        config = ModelConfig(**model)
        direction = config.normalise and config.tag_tower == "none"
        rows_SE = TableParts.of(folder, info).rows(tag_S)[0]
        fitted = NameMap.fit(text.tags.vector_Td[tag_S].double(), rows_SE, direction)
        return NamedTags(text, fitted, tag_S)

    def scores(self, folder: Path, annotator: DRELAnnotator, rows: int) -> UnseenScores | None:
        """How scores of unseen tags become probabilities; None where the bundle's own are none.

        Args:
            annotator: the bundle's, all of whose tags are scored.
            rows: training images of the model.

        Raises:
            InputError: the bundle keeps too few images to learn it from.
        """
        decider, kept = annotator.decider, folder / RESERVOIR
        if decider is None:
            return None
        count = check_learns(folder, annotator)
        table = pq.read_table(kept, columns=["features", "tags"])
        some = np.unique(np.linspace(0, count - 1, min(_ROWS, count)).astype(np.int64))
        table = table.take(pa.array(some)).combine_chunks()
        flat = table.column("features").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        features_nD = torch.from_numpy(flat.reshape(len(some), -1).astype(np.float32))
        places = np.linspace(0, len(self.tag_S) - 1, min(_TAGS, len(self.tag_S)))
        place_S = torch.from_numpy(np.unique(places.astype(np.int64)))
        tag_S = self.tag_S[place_S]
        with torch.inference_mode():
            tag_SL1 = annotator.model.encode_tags(self.map.left_out()[place_S], with_metric=True)
            score_nS = annotator.model.score(annotator.latents(features_nD), tag_SL1)
            level_n1 = level(annotator.best_order(features_nD))
        return fit_unseen(
            score_nS,
            _hits(table, annotator.vocabulary, tag_S),
            level_n1,
            torch.from_numpy(annotator.vocabulary.counts)[tag_S],
            rows,
            decider.calibration,
        )


def check_learns(folder: Path, annotator: Annotator) -> int:
    """How many rows a bundle keeps.

    Raises:
        InputError: too few to learn how probable unseen tags are, where its scores are probabilities.
    """
    kept = folder / RESERVOIR
    count = pq.read_metadata(kept).num_rows if kept.is_file() else 0
    if annotator.decider is not None and count < LEAST_ROWS:
        raise InputError(
            f"{folder}: it keeps {count} training rows; {LEAST_ROWS} are needed to learn how probable "
            "tags are that it knows by name alone: train it with reservoir.rows"
        )
    return count


def _usable(text: BundleText, vocabulary: Vocabulary) -> Tensor:
    """bool ``[T]``: tags with images and a text vector."""
    return text.tags.has_T & (torch.from_numpy(vocabulary.counts) > 0)


def _hits(table: pa.Table, vocabulary: Vocabulary, tag_S: Tensor) -> Tensor:
    """bool ``[n, S]``: which tags the rows of a reservoir have."""
    values, offsets = flat_tags(table.column("tags").combine_chunks())
    ids, offsets = encode_tags(values, offsets, pa.array(vocabulary.names, pa.string()))
    place_T = torch.full((len(vocabulary),), -1)
    place_T[tag_S] = torch.arange(len(tag_S))
    row_m = torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)))
    at_m = place_T[torch.from_numpy(ids.astype(np.int64))]
    hit_nS = torch.zeros(len(offsets) - 1, len(tag_S), dtype=torch.bool)
    hit_nS[row_m[at_m >= 0], at_m[at_m >= 0]] = True
    return hit_nS


@dataclass(frozen=True)
class NewNames:
    """Names for a bundle that has them not, all with text vectors.

    Attributes:
        vector_nd: float, of length 1.
    """

    names: tuple[str, ...]
    vector_nd: Tensor


def add_unseen(
    place: Folder, folder: Path, info: BundleInfo, named: NamedTags, new: NewNames, out: Folder
) -> str:
    """Write a bundle with more tags at the end of its vocabulary, which have no images.

    Args:
        place: where the bundle lies.
        folder: the same on this machine.
        named: of the same bundle.
        out: where the new one shall be.

    Returns:
        its version.

    Raises:
        InputError: see ``NamedTags.scores``.
    """
    vocabulary = read_vocabulary(folder)
    annotator = load_bundle(folder)
    assert isinstance(annotator, DRELAnnotator)
    count_T, added = torch.from_numpy(vocabulary.counts), len(new.names)
    scores = named.scores(folder, annotator, training_images(info, vocabulary))
    writer = BundleWriter(out)
    writer.clear()
    try:
        table = TableParts.of(folder, info)
        for path in sorted(folder.iterdir()):
            if path.name not in {*_MADE_ANEW, *table.names}:
                shutil.copyfile(path, writer.folder / path.name)
        row_nE = named.map.rows(new.vector_nd)
        parts = table.write_grown(writer.folder, row_nE, torch.zeros(added))
        vector_Td = torch.cat([named.text.tags.vector_Td, new.vector_nd.half()])
        # The mean stays that of the tags that the model was trained with.
        text = TagText(vector_Td, named.text.tags.mean_d)
        text.save(writer.folder / TAG_TEXT)
        kernel = KernelHead.load(folder, annotator.image_dim, len(vocabulary))
        if kernel is not None:
            kernel.grown(added).save(writer.folder / KERNEL)
        if annotator.decider is not None and scores is not None:
            scores.extended(annotator.decider, count_T, added).save(writer.folder / DECISION)
        grown = vocabulary.extended(new.names, np.zeros(added, dtype=np.int64))
        about = _about(info, parts, added, text.describe(named.text.source))
        version = write_bundle(writer.folder, info.method, grown, about)
        decider = load_bundle(
            writer.folder
        ).decider  # nothing gets its name before it has been loaded
        write_card(writer.folder, grown, training_images(info, vocabulary), decider)
        writer.finish(version)
    except BaseException:
        shutil.rmtree(writer.folder, ignore_errors=True)
        raise
    return version


def _about(info: BundleInfo, parts: int, added: int, text: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of a bundle that got names."""
    return {
        **info.carried,
        "table_parts": parts,
        "parent": info.version,
        "new_images": 0,
        "new_tags": added,
        "text": text,
    }


def training_images(info: BundleInfo, vocabulary: Vocabulary) -> int:
    """Training images of a model and its parents; where its bundle does not say it, at least those of its
    most frequent tag."""
    return info.images or int(vocabulary.counts.max(initial=1))

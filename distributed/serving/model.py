"""A model bundle as a server holds it: batches of rows or pictures in, names and scores out.

Shapes: B images, D feature size, k tags an image, T tags of the vocabulary, L latent size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.bundles.open import open_annotator
from distributed.bundles.unseen_tags import BundleText, NamedTags, check_learns
from distributed.data.replay_buffer import RESERVOIR
from distributed.serving.kept_rows import KeptRows
from distributed.serving.picture_reader import picture_reader
from distributed.serving.schemas import ApiError
from distributed.serving.tag_names import TagNames
from drel_core.annotators.base import (
    UNSCORABLE,
    Decision,
    choose_of,
    decision_of,
    depth_of,
    row_by_row,
    unseen_of,
)
from drel_core.annotators.cnn import CNNAnnotator
from drel_core.annotators.drel import DRELAnnotator
from drel_core.bundle.info import FeatureBlock
from drel_core.bundle.tensor_files import tensor_file_error
from drel_core.decision.decider import Decide
from drel_core.errors import InputError
from drel_core.images.backbone import trust_backbone
from drel_core.scoring.tag_search import DEEPEST, Search
from drel_core.scoring.topk import NoBestScore

_KEPT_DECISIONS = 64


@dataclass(frozen=True)
class Best:
    """Best tags of B images: scores and ids ``[B, k]``, best first.

    Attributes:
        keep_Bk: bool, the tags to say; None for all.
        bad_B: bool, rows without scores; None where all have some.
        features_BD: the rows, where rules may ask for more of their tags.
    """

    score_Bk: np.ndarray
    tag_Bk: np.ndarray
    keep_Bk: np.ndarray | None = None
    bad_B: np.ndarray | None = None
    features_BD: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which tags of its rows a request asks for.

    Attributes:
        k: most tags for a row.
        threshold: least score of a tag.
        decide, precision: see ``decision_of``.
        group: only tags of this group of the vocabulary.
        lang: language of display names.
    """

    k: int
    threshold: float | None = None
    decide: Decide = "top"
    precision: float | None = None
    group: str | None = None
    lang: str | None = None


class ServedModel:
    """One version of a model, ready to score. Never changes; the next version is another object.

    Args:
        path: bundle, training folder, or folder of versions with ``latest``.
        backbone: network for pictures where the bundle names none.
        search: how the best of many tags are found.

    Attributes:
        blocks: the features columns, in the order in which rows hold them; none where the model reads
            pictures.

    Raises:
        InputError: no bundle, a damaged one, or one whose scores are not finite.
    """

    def __init__(self, path: str, backbone: str = "", search: Search = "auto") -> None:
        if backbone:
            trust_backbone(backbone)
        place = find_bundle(path)[0].address
        self.folder = local_bundle(place)
        self.annotator = open_annotator(place, search)
        self.info = self.annotator.info
        self.rules = self.annotator.rules
        self.version = self.info.version
        self.names = np.array(self.annotator.vocabulary.names, dtype=object)
        self.counts = self.annotator.vocabulary.counts
        # None where all tags have images: then nothing has to be looked at for an answer.
        self.unseen_T = unseen_of(self.annotator)
        self.blocks: tuple[FeatureBlock, ...] = self.info.blocks if self.takes_features else ()
        self._text: BundleText | None = None
        self._decisions: dict[tuple[Decide, float | None], Decision] = {}
        try:
            self._pictures = picture_reader(self.info, self.folder, backbone, self.annotator)
        except (
            *(KeyError, TypeError, ValueError, RuntimeError, MemoryError),
            tensor_file_error(),
        ) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.folder}: the model bundle is damaged (features: {error})".splitlines()[0]
            ) from error
        self._check()
        self.tag_names = TagNames(self.annotator.vocabulary, self.rules)
        self.kept_rows = KeptRows(self.folder, self.annotator)

    def _check(self) -> None:
        """Score a few rows: a model that cannot score must never replace one that can. Also measures the time
        of a row."""
        if not len(self.names):
            raise InputError(f"{self.folder}: the model has no tags")
        if self.takes_features and sum(block.dim for block in self.blocks) != self.image_dim:
            raise InputError(f"{self.folder}: the model bundle is damaged (config.json: columns)")
        features_BD = torch.zeros(8, self.image_dim)
        try:
            self.annotator.annotate(features_BD, 1)  # the first one warms up
            started = time.perf_counter()
            score_Bk, _ = self.annotator.annotate(features_BD, 1)
            self.row_seconds = (time.perf_counter() - started) / len(features_BD)
            self._deep_row_seconds = self.row_seconds
            if self.search is not None:  # deeper lists are searched exactly
                started = time.perf_counter()
                self.annotator.annotate(features_BD, DEEPEST + 1)
                self._deep_row_seconds = (time.perf_counter() - started) / len(features_BD)
            finite = bool(torch.isfinite(score_Bk).all())
        except ValueError:  # top k refuses NaN
            finite = False
        if not finite:
            raise InputError(f"{self.folder}: the model's scores are not finite; it is damaged")

    @property
    def image_dim(self) -> int:
        """D."""
        return self.annotator.image_dim

    @property
    def search(self) -> dict[str, Any] | None:
        """How the best tags are found by codes; None where all tags are scored."""
        found = self.annotator.search if isinstance(self.annotator, DRELAnnotator) else None
        if found is None:
            return None
        return {"candidates": found.candidates, "recall": round(found.recall, 5)}

    @property
    def takes_images(self) -> bool:
        return self._pictures is not None

    @property
    def takes_features(self) -> bool:
        return not isinstance(self.annotator, CNNAnnotator)

    def best(self, features_BD: np.ndarray, k: int) -> Best:
        """The k best tags of each row of float32 features."""
        rows_BD, bad = torch.from_numpy(features_BD), None
        try:
            score_Bk, tag_Bk = self.annotator.annotate(rows_BD, k)
        except NoBestScore:
            (score_Bk, tag_Bk), bad_B = row_by_row(
                lambda rows_BD: self.annotator.annotate(rows_BD, k), rows_BD
            )
            bad = bad_B.numpy()
        return Best(score_Bk.numpy(), tag_Bk.numpy(), bad_B=bad, features_BD=features_BD)

    @property
    def decisions(self) -> list[Decide]:
        """What a request may ask for."""
        decider = self.annotator.decider
        if decider is None:
            return ["top"]
        return decider.decisions

    def decision(self, how: Decide, precision: float | None) -> Decision:
        """Raises:
        ApiError: 422, this model cannot decide that way.
        """
        known = self._decisions.get((how, precision))
        if known is None:
            try:
                known = decision_of(self.annotator, how, precision)
            except InputError as error:
                raise ApiError(422, "cannot_decide", str(error)) from None
            if len(self._decisions) < _KEPT_DECISIONS:  # clients send few different precisions
                self._decisions[how, precision] = known
        return known

    def members(self, group: str | None) -> torch.Tensor | None:
        """bool ``[T]``: the tags of a group; None where none is asked for.

        Raises:
            ApiError: 422, no such group.
        """
        if group is None:
            return None
        known = [] if self.rules is None else [*self.rules.rules.groups]
        if self.rules is None or group not in known:
            has = f"it has {', '.join(known[:20])}" if known else "its vocabulary has none"
            raise ApiError(422, "unknown_group", f"no group {group!r} of this model; {has}")
        return self.rules.members(group)

    def is_deep(self, wanted: Wanted) -> bool:
        """Whether codes do not find so many tags: all tags are scored for it."""
        return self.search is not None and self.depth(wanted) > DEEPEST

    def seconds_of(self, wanted: Wanted) -> float:
        """Time of a row of a request."""
        return self._deep_row_seconds if self.is_deep(wanted) else self.row_seconds

    def depth(self, wanted: Wanted) -> int:
        """How many of the best tags of an image an answer is made of."""
        return depth_of(self.annotator, wanted.k, wanted.decide)

    def choose(self, best: Best, rows: slice, wanted: Wanted) -> Best:
        """The answer to a request, of the best tags of its rows.

        Raises:
            ApiError: 422, a row has no scores, or this model cannot decide that way.
        """
        if best.bad_B is not None and best.bad_B[rows].any():
            row = int(best.bad_B[rows].argmax())
            raise ApiError(422, "not_scorable", f"row {row}: {UNSCORABLE}", row)
        score_Bk, tag_Bk, keep_Bk = best.score_Bk[rows], best.tag_Bk[rows], None
        decision = self.decision(wanted.decide, wanted.precision)
        only_T = self.members(wanted.group)
        by_rules = only_T is not None or bool(self.rules)
        if not by_rules and (decision.how == "top" or self.annotator.decider is None):
            score_Bk, tag_Bk = score_Bk[:, : wanted.k], tag_Bk[:, : wanted.k]
        else:
            chosen = choose_of(
                self.annotator,
                torch.from_numpy(score_Bk),
                torch.from_numpy(tag_Bk),
                wanted.k,
                decision,
                lambda places, depth: self._deeper(best, rows, places, depth),
                only_T,
            )
            score_Bk, tag_Bk = chosen.probability_Bk.numpy(), chosen.tag_Bk.numpy()
            keep_Bk = None if chosen.keep_Bk is None else chosen.keep_Bk.numpy()
        if wanted.threshold is not None:
            above_Bk = score_Bk >= wanted.threshold
            keep_Bk = above_Bk if keep_Bk is None else keep_Bk & above_Bk
        return Best(score_Bk, tag_Bk, keep_Bk)

    def _deeper(
        self, best: Best, rows: slice, places: torch.Tensor, depth: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best tags of some of a request's rows."""
        assert best.features_BD is not None
        features_BD = torch.from_numpy(best.features_BD[rows])[places]
        return self.annotator.annotate(features_BD, depth)

    def display_name(self, tag: int, lang: str) -> str:
        """The name of a tag in a language; the tag itself where it has none."""
        name: str = self.names[tag]
        return name if self.rules is None else self.rules.rules.display_name(name, lang)

    def features_of(self, pictures: Sequence[bytes]) -> np.ndarray:
        """float32 ``[B, D]`` of encoded pictures.

        Raises:
            BadPicture: one cannot be decoded; ``index`` says which.
            InputError: the model takes no pictures.
        """
        if self._pictures is None:
            raise InputError("this model names no network for pictures; send features")
        return self._pictures.features(pictures)

    def text(self) -> BundleText:
        """Text vectors of its tags and of other names.

        Raises:
            InputError: it cannot have tags by name.
        """
        if self.info.method not in ("drel", "wsabie"):
            raise InputError(f"a model of method {self.info.method} knows no tags by name alone")
        if self._text is None:
            self._text = BundleText.of(self.folder, self.info, self.annotator.vocabulary)
            if not NamedTags.possible(self._text, self.annotator.vocabulary):
                raise InputError("too few of the model's tags have images and text vectors")
            check_learns(self.folder, self.annotator)
        return self._text

    def examples(self, limit: int) -> list[dict[str, Any]]:
        """Rows that the model keeps to rehearse, evenly spaced: image_id, tags, features; [] without."""
        path = self.folder / RESERVOIR
        if not path.is_file() or not self.takes_features:
            return []
        table = pq.read_table(path, columns=["image_id", "tags", "features"])
        places = np.unique(np.linspace(0, len(table) - 1, min(limit, len(table)), dtype=np.int64))
        rows: list[dict[str, Any]] = table.take(pa.array(places)).to_pylist()
        return rows

    def neighbours(self, tag: str, limit: int) -> list[tuple[str, float]] | None:
        """Nearest tags by the cosine of their latents; None where the method has no latents.

        Raises:
            KeyError: no such tag.
        """
        place = self.tag_names.id_of(tag)
        if not isinstance(self.annotator, DRELAnnotator):
            return None
        tag_TL = self.annotator.tag_TL
        with torch.inference_mode():
            length_T = tag_TL.norm(dim=1).clamp(min=1e-12)
            cosine_T = (tag_TL @ tag_TL[place]) / (length_T * length_T[place])
            cosine_T[place] = -2.0
            if self.rules is not None:
                cosine_T[self.rules.hidden_T] = -2.0
            best_k, tag_k = cosine_T.topk(min(limit, len(cosine_T) - 1))
        pairs = zip(tag_k.tolist(), best_k.tolist(), strict=True)
        return [(self.names[tag], score) for tag, score in pairs if score > -1.5]

    def images_with(self, tag: str, limit: int, is_wanted: Callable[[str], bool]) -> list[str]:
        """image_id of kept rows with a tag, see ``KeptRows.with_tag``."""
        if not isinstance(self.annotator, DRELAnnotator) or not self.kept_rows.are_there:
            return []
        tag_L = self.annotator.tag_TL[self.tag_names.id_of(tag)]
        return self.kept_rows.with_tag(tag, tag_L, limit, is_wanted)


def check_same_rows(path: str, old: ServedModel, fresh: ServedModel) -> None:
    """Clients go on sending the rows that they send.

    Raises:
        InputError: the newer model takes others.
    """
    dims = tuple(f"D = {served.image_dim}" for served in (fresh, old))
    if dims[0] == dims[1]:
        if max(len(old.blocks), len(fresh.blocks)) < 2 or fresh.blocks == old.blocks:
            return
        dims = tuple(
            ", ".join(f"{block.name} ({block.dim})" for block in served.blocks)
            for served in (fresh, old)
        )
    raise InputError(
        f"{path}: {dims[0]}, but the scorer answers {dims[1]}; start another scorer for other features"
    )

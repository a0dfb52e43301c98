"""Rows of training that a bundle keeps, for people to look at: which are like an image, which have a tag.

Shapes: N kept rows, D feature size, L latent size, k rows of an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distributed.data.replay_buffer import RESERVOIR
from drel_core.annotators.base import UNSCORABLE
from drel_core.annotators.drel import DRELAnnotator
from drel_core.errors import InputError

_BATCH = 1024


@dataclass(frozen=True)
class _Held:
    """What is in memory of N rows.

    Attributes:
        place_of: by image_id.
        latent_NL: of length 1, so that products are cosines.
    """

    place_of: dict[str, int]
    image_id_N: list[str]
    tags_N: pa.ListArray
    latent_NL: Tensor


class KeptRows:
    """The rows of one bundle, read when somebody first asks. For any thread.

    Args:
        folder: the bundle.
        annotator: of the bundle; rows are compared by its latents, so other methods than drel and wsabie
            have none.
    """

    def __init__(self, folder: Path, annotator: Any) -> None:
        self._path, self._annotator = folder / RESERVOIR, annotator
        self._held: _Held | None = None
        self._lock = threading.Lock()

    @property
    def are_there(self) -> bool:
        return isinstance(self._annotator, DRELAnnotator) and self._path.is_file()

    def __contains__(self, image_id: str) -> bool:
        return self.are_there and image_id in self._rows().place_of

    def similar(self, features_D: np.ndarray, k: int) -> list[dict[str, Any]]:
        """The rows nearest to an image, by the cosine of their latents: image_id, tags, score.

        Args:
            features_D: float32.

        Raises:
            InputError: its latents are not finite: it is like no row.
        """
        held = self._rows()
        latent_1L = self._annotator.latents(torch.from_numpy(features_D)[None])
        if not latent_1L.isfinite().all():
            raise InputError(UNSCORABLE)
        cosine_N = held.latent_NL @ _unit(latent_1L)[0]
        score_k, place_k = cosine_N.topk(min(k, len(cosine_N)))
        return [
            {
                "image_id": held.image_id_N[place],
                "tags": held.tags_N[place].as_py() or [],
                "score": score,
            }
            for score, place in zip(score_k.tolist(), place_k.tolist(), strict=True)
        ]

    def with_tag(
        self, tag: str, tag_L: Tensor, limit: int, is_wanted: Callable[[str], bool]
    ) -> list[str]:
        """image_id of rows that have a tag, those first that the model finds most like it.

        Args:
            tag_L: its latent.
            is_wanted: of an image_id; the first few are asked for.
        """
        held = self._rows()
        has = pc.equal(held.tags_N.flatten(), tag)
        place_n = torch.from_numpy(np.unique(pc.list_parent_indices(held.tags_N).filter(has)))
        order_n = (held.latent_NL[place_n] @ tag_L).argsort(descending=True)
        best = [held.image_id_N[place] for place in place_n[order_n[: 4 * limit]].tolist()]
        return list(islice(filter(is_wanted, best), limit))

    def _rows(self) -> _Held:
        with self._lock:
            if self._held is None:
                self._held = self._read()
            return self._held

    def _read(self) -> _Held:
        ids: list[str] = []
        tags, latents = [], []
        with pq.ParquetFile(self._path) as file:
            names = ["image_id", "features", "tags"]
            for batch in file.iter_batches(
                _BATCH, columns=names
            ):  # features are never all in memory
                flat = batch.column("features").flatten().to_numpy(zero_copy_only=False)
                rows_BD = torch.from_numpy(flat.reshape(len(batch), -1).astype(np.float32))
                latents.append(_unit(self._annotator.latents(rows_BD)))
                ids += batch.column("image_id").to_pylist()
                tags.append(batch.column("tags"))
        place_of = {image_id: place for place, image_id in enumerate(ids)}
        return _Held(place_of, ids, pa.concat_arrays(tags), torch.cat(latents))


def _unit(latent_BL: Tensor) -> Tensor:
    """The same of length 1; 0 where features were no numbers, or too large."""
    return torch.nn.functional.normalize(torch.nan_to_num(latent_BL, posinf=0.0, neginf=0.0), dim=1)

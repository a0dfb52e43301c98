"""Scores of images that the scoring model was not fitted to: what calibration and decisions learn from.

Of each image only its best tags are kept, so that memory does not grow with the vocabulary.

Shapes: n held-out images, M candidate tags of each, T tags.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk

CANDIDATES = 256
"""Tags of a held-out image that are kept: those after them have next to no probability."""
LEAST_ROWS = 20
"""Held-out images: fewer tell next to nothing of a score."""


@dataclass(frozen=True)
class HeldOut:
    """The best ``M`` tags of each image by score.

    Args:
        tag_nM: tag ids, best first.
        score_nM: float32 scores of the model.
        evidence_nM: float32 logs of the kernel's estimates (``KernelHead.log_estimates``), which still have
            to be weighed; None without a kernel.
        hit_nM: bool, the tag is relevant to the image.
        relevant: relevant (image, tag) pairs in all, those that are no candidates included.
    """

    tag_nM: Tensor
    score_nM: Tensor
    hit_nM: Tensor
    relevant: int
    evidence_nM: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tag_nM)

    @property
    def says_nothing(self) -> bool:
        """No relevant tag is a candidate, or no irrelevant one: there is nothing to learn."""
        return not bool(self.hit_nM.any()) or bool(self.hit_nM.all())


def best_of_all(batches: Iterable[tuple[Tensor, TagLists]]) -> HeldOut:
    """From scores of all tags.

    Args:
        batches: scores ``[B, T]`` of some images with their tags; at least one.
    """
    tags, scores, hits = [], [], []
    relevant = 0
    for score_BT, relevant_B in batches:
        num_tags = score_BT.shape[1]
        score_BM, tag_BM = topk(score_BT, CANDIDATES)
        hits.append(is_relevant(tag_BM, relevant_B.keys(num_tags), num_tags))
        tags.append(tag_BM)
        scores.append(score_BM)
        relevant += len(relevant_B.values)
    return HeldOut(torch.cat(tags), torch.cat(scores), torch.cat(hits), relevant)


def sample_rows(rows: int, most: int, seed: int) -> np.ndarray:
    """int64, rising: numbers of at most ``most`` of ``rows`` rows, at random."""
    order = np.random.default_rng([seed, 1]).permutation(rows)
    return np.sort(order[:most])


def tag_share(count_T: Tensor, rows: int) -> Tensor:
    """float64 ``[T]``: share of training images with each tag; a tag without any counts as half an image.

    Args:
        count_T: int64, training images with each tag.
        rows: training images in all.
    """
    return count_T.double().clamp(min=0.5) / max(rows, 1)


def is_relevant(tag_nM: Tensor, relevant_nT_keys: Tensor, num_tags: int) -> Tensor:
    """bool ``[n, M]``: which candidates are relevant.

    Args:
        relevant_nT_keys: int64, ``row * T + tag`` of every relevant pair.
    """
    row_n1 = torch.arange(len(tag_nM), device=tag_nM.device)[:, None]
    return torch.isin(row_n1 * num_tags + tag_nM, relevant_nT_keys)

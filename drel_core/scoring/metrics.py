"""Annotation quality: mP, mR, F1, N+ over tags, mAP, overall precision and recall, P@1.

As in the image-annotation literature (Duygulu et al., 2002; He et al., 2015, section 4): the top k
tags are predicted for every image, precision and recall are taken per tag and averaged over tags.
Shapes: B images, T tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk

_AP_BLOCK = 4 << 20  # scores sorted at a time
_KEPT_BYTES = 1 << 30


def fits_map(images: int, tags: int) -> bool:
    """Whether all scores of so many images are kept, as mAP needs."""
    return images * tags * 4 <= _KEPT_BYTES


class MetricCounts:
    """Counts that add up over batches and workers, in any order.

    Args:
        num_tags: T.
        k: tags predicted for each image.
        keep_scores_bytes: mAP needs all scores of a tag at once. They are kept up to this many bytes; with
            more, mAP is None.
    """

    def __init__(self, num_tags: int, k: int = 5, keep_scores_bytes: int = _KEPT_BYTES) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        self.num_tags, self.k, self.budget = num_tags, k, keep_scores_bytes
        self.images = 0
        self.first_hits = 0  # images whose best tag is relevant
        self.hit_T = torch.zeros(num_tags, dtype=torch.int64)
        self.predicted_T = torch.zeros(num_tags, dtype=torch.int64)
        self.relevant_T = torch.zeros(num_tags, dtype=torch.int64)
        self.kept: list[tuple[Tensor, TagLists]] | None = []
        self._precision_T: Tensor | None = None

    def update(self, score_BT: Tensor, relevant: TagLists, best_Bk: Tensor | None = None) -> None:
        """Count a batch of images by their scores ``[B, T]``.

        Args:
            best_Bk: predicted tag ids, -1 predicts nothing; None: those with the best scores.

        Raises:
            ValueError: shapes differ or a score is NaN.
        """
        if score_BT.shape != (len(relevant), self.num_tags):
            raise ValueError(
                f"scores are {tuple(score_BT.shape)}, expected {(len(relevant), self.num_tags)}"
            )
        kept = self.kept
        self.update_topk(topk(score_BT, self.k)[1] if best_Bk is None else best_Bk, relevant)
        if kept is not None and (self.images * self.num_tags * 4) <= self.budget:
            kept.append((score_BT.float().cpu(), relevant))
            self.kept = kept

    def update_topk(self, topk_id_Bk: Tensor, relevant: TagLists) -> None:
        """Count a batch by predicted tag ids ``[B, k]`` alone; -1 predicts nothing. mAP is None then.

        Raises:
            ValueError: not as many rows as images.
        """
        if len(topk_id_Bk) != len(relevant):
            raise ValueError(f"{len(topk_id_Bk)} predictions for {len(relevant)} images")
        self._precision_T = None
        self.images += len(relevant)
        row_Bk = torch.arange(len(relevant))[:, None].expand_as(topk_id_Bk)
        # Both sides as sorted keys image * T + tag: a hit is a key in both.
        topk_id_Bk = topk_id_Bk.cpu()
        given_Bk = topk_id_Bk >= 0
        predicted = (row_Bk * self.num_tags + topk_id_Bk)[given_Bk]
        wanted = relevant.keys(self.num_tags).unique()
        hit = predicted[torch.isin(predicted, wanted)]
        first = (row_Bk * self.num_tags + topk_id_Bk)[:, :1][given_Bk[:, :1]]
        self.first_hits += int(torch.isin(first, wanted).sum())
        self.hit_T += torch.bincount(hit % max(self.num_tags, 1), minlength=self.num_tags)
        self.predicted_T += torch.bincount(topk_id_Bk[given_Bk], minlength=self.num_tags)
        self.relevant_T += torch.bincount(wanted % max(self.num_tags, 1), minlength=self.num_tags)
        if len(relevant):
            self.kept = None

    def merge(self, other: MetricCounts) -> None:
        """Add the counts of other images.

        Raises:
            ValueError: other vocabulary or k.
        """
        if (self.num_tags, self.k) != (other.num_tags, other.k):
            raise ValueError("counts of different vocabularies or k do not add up")
        self._precision_T = None
        self.images += other.images
        self.first_hits += other.first_hits
        self.hit_T += other.hit_T
        self.predicted_T += other.predicted_T
        self.relevant_T += other.relevant_T
        fits = self.images * self.num_tags * 4 <= self.budget
        both = self.kept is not None and other.kept is not None and fits
        self.kept = [*self.kept, *other.kept] if both else None  # type: ignore[misc]

    def result(self, trained_T: Tensor) -> dict[str, Any]:
        """Metrics over the tags that occur in these images and in training.

        Args:
            trained_T: bool, the tag occurs in training.

        Returns:
            k, images, tags, tags_scored; mP, mR, F1 of the two means, N+ (tags with a hit), mAP; oP, oR, oF1
            over all (image, tag) pairs; P@1, the share of images whose best tag is relevant.
        """
        scored_T = (self.relevant_T > 0) & trained_T
        hit = self.hit_T[scored_T].double()
        precision = hit / self.predicted_T[scored_T].clamp(min=1)
        recall = hit / self.relevant_T[scored_T].clamp(min=1)
        mean_precision = float(precision.mean()) if len(hit) else 0.0
        mean_recall = float(recall.mean()) if len(hit) else 0.0
        total = float(self.hit_T.sum())
        overall_precision = total / max(1, int(self.predicted_T.sum()))
        overall_recall = total / max(1, int(self.relevant_T.sum()))
        return {
            "k": self.k,
            "images": self.images,
            "tags": self.num_tags,
            "tags_scored": int(scored_T.sum()),
            "mP": mean_precision,
            "mR": mean_recall,
            "F1": harmonic_mean(mean_precision, mean_recall),
            "N+": int((hit > 0).sum()),
            "mAP": self._mean_average_precision(scored_T),
            "oP": overall_precision,
            "oR": overall_recall,
            "oF1": harmonic_mean(overall_precision, overall_recall),
            "P@1": self.first_hits / max(1, self.images),
        }

    def chance_map(self, trained_T: Tensor) -> float:
        """The mAP that is expected when images come in random order; tags as in ``result``.

        The floor of mAP: popularity scores all images alike, so that it puts them in no order. Of N images of
        which R have the tag: ``(H + (R - 1) / (N - 1) (N - H)) / N`` with ``H = 1 + 1/2 + … + 1/N``.
        """
        relevant = self.relevant_T[(self.relevant_T > 0) & trained_T].double()
        if not len(relevant):
            return 0.0
        images = self.images
        harmonic = float((1 / np.arange(1, images + 1)).sum())
        expected = harmonic + (relevant - 1) / max(1, images - 1) * (images - harmonic)
        return float((expected / images).mean())

    def bands(self, count_T: Tensor) -> dict[str, dict[str, Any]]:
        """Metrics over thirds of the scored tags by training count: rare, middle, common.

        Args:
            count_T: training images that carry the tag.
        """
        scored = ((self.relevant_T > 0) & (count_T > 0)).nonzero()[:, 0]
        order = scored[count_T[scored].argsort(stable=True)]
        third = len(order) / 3
        cuts = [0, round(third), round(2 * third), len(order)]
        out: dict[str, dict[str, Any]] = {}
        for place, name in enumerate(("rare", "middle", "common")):
            tags = order[cuts[place] : cuts[place + 1]]
            hit = self.hit_T[tags].double()
            precision = hit / self.predicted_T[tags].clamp(min=1)
            recall = hit / self.relevant_T[tags].clamp(min=1)
            means = [float(value.mean()) if len(tags) else 0.0 for value in (precision, recall)]
            counts = count_T[tags]
            out[name] = {
                "tags": len(tags),
                "training_images": [int(counts.min()), int(counts.max())] if len(tags) else [0, 0],
                "mP": means[0],
                "mR": means[1],
                "F1": harmonic_mean(*means),
                "N+": int((hit > 0).sum()),
            }
        return out

    def average_precision_T(self) -> Tensor | None:
        """float64 ``[T]``: average precision of each tag, NaN where no image has it; None where
        the scores were too many to be kept."""
        if self.kept is None:
            return None
        if self._precision_T is None:
            self._precision_T = torch.full((self.num_tags,), torch.nan, dtype=torch.float64)
            columns = (self.relevant_T > 0).nonzero()[:, 0]
            if self.kept and len(columns):
                score_NT = torch.cat([score for score, _ in self.kept])
                relevant_NT = TagLists.cat([tags for _, tags in self.kept]).mask(self.num_tags)
                block = max(1, _AP_BLOCK // max(1, len(score_NT)))
                for part in columns.split(block):
                    found = average_precision(
                        score_NT[:, part].numpy(), relevant_NT[:, part].numpy()
                    )
                    self._precision_T[part] = torch.from_numpy(found)
        return self._precision_T

    def _mean_average_precision(self, scored_T: Tensor) -> float | None:
        precision_T = self.average_precision_T()
        if precision_T is None:
            return None
        return float(precision_T[scored_T].mean()) if scored_T.any() else 0.0


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def average_precision(score_NT: np.ndarray, relevant_NT: np.ndarray) -> np.ndarray:
    """float64 ``[T]``: average precision of each column; equal scores are taken as one step.

    The sum over thresholds of precision times the gain in recall, as scikit-learn defines it.
    """
    order = np.argsort(-score_NT, axis=0, kind="stable")
    score = np.take_along_axis(score_NT, order, axis=0)
    hits = np.take_along_axis(relevant_NT, order, axis=0).cumsum(axis=0, dtype=np.float64)
    rank = np.arange(1, len(score) + 1, dtype=np.float64)[:, None]
    last_of_tie = np.ones(score.shape, dtype=bool)
    last_of_tie[:-1] = score[1:] != score[:-1]
    # Hits up to the previous threshold: of the rows that close a tie, the one before this.
    closed = np.where(last_of_tie, hits, 0.0)
    before = np.zeros_like(hits)
    before[1:] = np.maximum.accumulate(closed, axis=0)[:-1]
    gain = np.where(last_of_tie, (hits - before) * hits / rank, 0.0)
    return gain.sum(0) / np.maximum(hits[-1], 1)


def format_table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """A table of methods and their metrics, as aligned text."""
    keys = ("mP", "mR", "F1", "N+", "mAP", "oF1")

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return str(value) if isinstance(value, int) else f"{value:.3f}"

    width = max(len("method"), *(len(name) for name, _ in rows))
    lines = ["method".ljust(width) + "".join(key.rjust(8) for key in keys)]
    for name, metrics in rows:
        lines.append(name.ljust(width) + "".join(cell(metrics.get(key)).rjust(8) for key in keys))
    return "\n".join(lines)


def format_decisions(metrics: dict[str, Any]) -> str:
    """A table of what each decision of a model gives, and of how far its probabilities can be trusted."""
    keys = ("F1", "N+", "oF1", "P@1", "tags_per_image")
    lines = ["decide".ljust(10) + "".join(key.rjust(8) for key in (*keys[:-1], "tags"))]
    for how, found in metrics["decisions"].items():
        cells = (str(v) if isinstance(v := found[key], int) else f"{v:.3f}" for key in keys)
        lines.append(how.ljust(10) + "".join(cell.rjust(8) for cell in cells))
    if "ece" in metrics:
        lines.append(
            f"probabilities above .05 are off by {metrics['ece']:.3f} on average (expected calibration error)"
        )
    return "\n".join(lines)

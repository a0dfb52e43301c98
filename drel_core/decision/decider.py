"""From scores to the tags of an image: calibrated probabilities, and three ways to choose among them.

Shapes: B images, n held-out images, M candidate tags of each, T tags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.decision.calibration import (
    KNOTS,
    LEVEL_TAGS,
    Calibration,
    Fitted,
    extend_by_count,
    fit_calibration,
    level,
)
from drel_core.decision.cuts import DEPTH, cut_for_precision, learn_cuts
from drel_core.decision.held_out import HeldOut, tag_share
from drel_core.decision.macro import learn_gains
from drel_core.errors import InputError
from drel_core.scoring.reliability import RELIABILITY_BINS, reliability

DECISION = "decision.safetensors"
Decide = Literal["top", "macro", "threshold"]
"""top: the k most probable tags. macro: the k that maximise expected macro F1. threshold: all that pass
their tag's cut, 50 at most."""


def most_tags(decide: Decide) -> int:
    """Tags of an image where nobody says how many: 5, and with ``threshold`` all that may pass."""
    return DEPTH if decide == "threshold" else 5


def check_precision(decide: Decide, precision: float | None) -> None:
    """Raises:
    ValueError: a precision where none is used, or one that is no share.
    """
    if precision is None:
        return
    if decide != "threshold":
        raise ValueError("precision needs decide threshold")
    if not 0 < precision <= 1:
        raise ValueError(f"precision is {precision}; it must be in (0, 1]")


@dataclass(kw_only=True)
class DecisionConfig:
    """How scores become probabilities, and what decisions are learned from."""

    held_out: float = 0.2
    """where no rows are held out anyway (data.validation, or 20,000 rows and more), share of the training \
    rows that a second fit leaves out and scores; 0: scores stay scores, and top is the only decision"""
    rows: int = 2000
    """most rows that the second fit leaves out; methods knn and svm score so many in place of it"""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"decision.held_out is {self.held_out}; it must be in [0, 0.5]")
        if self.rows < 1:
            raise ValueError(f"decision.rows is {self.rows}; it must be 1 or more")


class Chosen(NamedTuple):
    """The tags of B images, best first.

    Attributes:
        probability_Bk, tag_Bk: of each image.
        keep_Bk: bool, False where there is no tag; None where there is one in every place.
    """

    probability_Bk: Tensor
    tag_Bk: Tensor
    keep_Bk: Tensor | None = None

    @property
    def ids(self) -> Tensor:
        """Tag ids ``[B, k]``, -1 where there is none."""
        return self.tag_Bk if self.keep_Bk is None else self.tag_Bk.masked_fill(~self.keep_Bk, -1)


@dataclass(frozen=True)
class Decider:
    """What a model knows of its own scores.

    Args:
        calibration: makes them probabilities.
        gain_T, offset_T: float32, what ``macro`` chooses by: ``gain p + offset``.
        cut_T: float32, least probability at which ``threshold`` says a tag; None in bundles of before.
        reliability_b2: see ``scoring.reliability``; None in bundles of before.
    """

    calibration: Calibration
    gain_T: Tensor
    offset_T: Tensor
    cut_T: Tensor | None = None
    reliability_b2: Tensor | None = None

    def __len__(self) -> int:
        return len(self.gain_T)

    def to(self, device: torch.device) -> Decider:
        def there(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device)

        return Decider(
            self.calibration.to(device),
            self.gain_T.to(device),
            self.offset_T.to(device),
            there(self.cut_T),
            there(self.reliability_b2),
        )

    @property
    def decisions(self) -> list[Decide]:
        """What it can decide by."""
        return ["top", "macro"] if self.cut_T is None else ["top", "macro", "threshold"]

    def candidates(self, k: int, decide: Decide) -> int:
        """How many of the best tags of an image ``choose`` must be given."""
        return max(k, DEPTH if decide != "top" else LEVEL_TAGS)

    def probabilities(self, z_BM: Tensor, k: int) -> Tensor:
        """``[B, k]`` of the k best tags of each image.

        Args:
            z_BM: of its best tags, best first, by ``Calibration.order``; as many as ``candidates`` says.
        """
        if len(z_BM) == 1 and z_BM.device.type == "cpu":
            z_M = z_BM.numpy()[0]
            return torch.from_numpy(self.calibration.probability_of_one(z_M, k)[None])
        return self.calibration.probability(z_BM[:, :k], level(z_BM))

    def all_probabilities(self, z_BT: Tensor) -> Tensor:
        """``[B, T]`` of all tags of each image, by ``Calibration.order``."""
        best_BM = z_BT.topk(min(LEVEL_TAGS, z_BT.shape[1]), dim=1).values
        return self.calibration.probability(z_BT, level(best_BM))

    def choose(
        self, probability_BM: Tensor, tag_BM: Tensor, k: int, decide: Decide, cut_T: Tensor | None
    ) -> Chosen:
        """The tags of images, of their most probable ones.

        Args:
            probability_BM, tag_BM: as many as ``candidates`` says, best first.
            k: tags of an image; most tags with ``threshold``.
            cut_T: those of ``cuts``, for ``threshold``.
        """
        if decide == "top":
            return Chosen(probability_BM[:, :k], tag_BM[:, :k])
        if decide == "threshold":
            keep_BM = _passes(probability_BM, tag_BM, cut_T)
            # Those that pass come first, in their order.
            place_BM = keep_BM.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :k]
            return Chosen(
                probability_BM.gather(1, place_BM),
                tag_BM.gather(1, place_BM),
                keep_BM.gather(1, place_BM),
            )
        depth = slice(0, max(k, DEPTH))
        probability_BM, tag_BM = probability_BM[:, depth], tag_BM[:, depth]
        utility_BM = self._utility(probability_BM, tag_BM)
        best_Bk = utility_BM.argsort(dim=1, descending=True, stable=True)[:, :k]
        # The rule chooses which tags; which comes first is for their probabilities to say.
        place_Bk = best_Bk.sort(dim=1).values
        return Chosen(probability_BM.gather(1, place_Bk), tag_BM.gather(1, place_Bk))

    def _utility(self, probability_BM: Tensor, tag_BM: Tensor) -> Tensor:
        return probability_BM * self.gain_T[tag_BM] + self.offset_T[tag_BM]

    def values(
        self, probability_BM: Tensor, tag_BM: Tensor, k: int, decide: Decide, cut_T: Tensor | None
    ) -> Tensor:
        """``[B, M]``: what ``choose`` goes by, highest first, for whoever has more to heed; ``-inf`` for tags
        that it does not choose."""
        if decide == "top":
            return probability_BM
        if decide == "threshold":
            return probability_BM.masked_fill(~_passes(probability_BM, tag_BM, cut_T), -torch.inf)
        utility_BM = self._utility(probability_BM, tag_BM)
        utility_BM[:, max(k, DEPTH) :] = -torch.inf
        return utility_BM

    def cuts(self, precision: float | None) -> Tensor:
        """float32 ``[T]``: least probabilities at which tags are said.

        Args:
            precision: the wanted share of said tags that are right; None: each tag's own cut.

        Raises:
            InputError: the model has no cuts, or held-out rows never had that precision.
        """
        if self.cut_T is None or self.reliability_b2 is None:
            raise InputError(
                "this model has no cuts: an earlier version trained it; train it again, or decide by top"
            )
        if precision is None:
            return self.cut_T
        cut = cut_for_precision(self.reliability_b2, precision)
        if cut is None:
            raise InputError(
                f"precision {precision}: no probability was right that often on held-out rows; ask for less"
            )
        return torch.full_like(self.cut_T, cut)

    def extended(self, old_count_T: Tensor, count_T: Tensor) -> Decider:
        """That of a vocabulary that grew at its end, or got more images: a new tag is like old ones of its
        count, and the others move as counts do."""

        def grown(value_T: Tensor) -> Tensor:
            return extend_by_count(value_T, old_count_T, count_T, by_ratio=True)

        return replace(
            self,
            calibration=self.calibration.extended(old_count_T, count_T),
            gain_T=grown(self.gain_T),
            offset_T=grown(self.offset_T),
            cut_T=None if self.cut_T is None else grown(self.cut_T),
        )

    def save(self, path: Path, about: dict[str, str] | None = None) -> None:
        """Write the file; ``about`` goes into its header."""
        calibration = self.calibration
        tensors = {
            "slope": calibration.slope,
            "shift_T": calibration.shift_T,
            "link": calibration.link,
            "gain_T": self.gain_T,
            "offset_T": self.offset_T,
        }
        if self.cut_T is not None and self.reliability_b2 is not None:
            tensors |= {"cut_T": self.cut_T, "reliability": self.reliability_b2}
        if calibration.slope_T is not None:
            tensors["slope_T"] = calibration.slope_T
        save_tensors({name: part.cpu().contiguous() for name, part in tensors.items()}, path, about)

    @staticmethod
    def load(folder: Path, num_tags: int) -> Decider | None:
        """That of a bundle; None where it has none.

        Raises:
            InputError: it is of another number of tags.
            Exception: what reading a damaged file raises.
        """
        path = folder / DECISION
        if not path.is_file():
            return None
        held = load_tensors(path)
        link = held.get("link", torch.tensor([1.0, 0.0, 0.0, 0.0]))  # bundles of before have none
        cut_T, table_b2 = held.get("cut_T"), held.get("reliability")
        parts = {name: held[name] for name in ("shift_T", "gain_T", "offset_T")}
        slope_T = held.get("slope_T")
        for name, part in (("cut_T", cut_T), ("slope_T", slope_T)):
            if part is not None:
                parts[name] = part
        shapes = {tuple(part.shape) for part in parts.values()}
        links = {(4,), (3 + len(KNOTS),)}  # one bend in earlier bundles
        if shapes != {(num_tags,)} or held["slope"].shape != (1,) or link.shape not in links:
            raise InputError(
                f"{path}: decisions of {sorted(shapes)} tags, but there are {num_tags}"
            )
        if table_b2 is not None and (table_b2.shape != (RELIABILITY_BINS, 2) or table_b2.min() < 0):
            raise InputError(f"{path}: reliability must be {RELIABILITY_BINS} pairs of counts")
        calibration = Calibration(held["slope"], held["shift_T"], link, slope_T)
        return Decider(calibration, held["gain_T"], held["offset_T"], cut_T, table_b2)


def _passes(probability_BM: Tensor, tag_BM: Tensor, cut_T: Tensor | None) -> Tensor:
    """bool ``[B, M]``: the tags that ``threshold`` says."""
    assert cut_T is not None
    keep_BM = probability_BM >= cut_T[tag_BM]
    keep_BM[:, DEPTH:] = False
    return keep_BM


def learn_decider(
    held: HeldOut, count_T: Tensor, rows: int, k: int, least_gain: float = 0.0
) -> tuple[Decider, Fitted] | None:
    """Learn calibration, gains and cuts from held-out images, with what the calibration says of them.

    Args:
        count_T: int64, training images with each tag.
        rows: training images in all.
        k: tags an image that ``macro`` is learned for.
        least_gain: see ``fit_calibration``.

    Returns:
        None where held-out images say nothing.
    """
    if held.says_nothing:
        return None
    share_T = tag_share(count_T, rows)
    fitted = fit_calibration(held, share_T, least_gain)
    seen = fitted.probability_nM, fitted.tag_nM
    gain_T, offset_T = learn_gains(*seen, share_T, count_T, k)
    cut_T = learn_cuts(*seen, fitted.hit_nM, held.relevant, share_T, count_T)
    table_b2 = reliability(fitted.probability_nM, fitted.hit_nM)
    return Decider(fitted.calibration, gain_T, offset_T, cut_T, table_b2), fitted

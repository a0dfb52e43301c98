"""A trained DREL model (or WSABIE, a special case of it): its files in a bundle, and the annotator of them.

model.safetensors                        towers, M, feature statistics
tag_embedding-00000-of-00002.safetensors rows of the tag table, one file per rank that trained them
kernel.safetensors                       kernel regression beside the towers, where there is one
decision.safetensors                     calibration and decisions, where training learned them

Shapes: B images, D feature size, E embedding size, L latent size, T tags, n some of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import is_finite, load_tensors
from drel_core.bundle.tensor_files import open_tensors, save_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.calibration import LEVEL_TAGS
from drel_core.decision.decider import Decider
from drel_core.decision.kernel import KERNEL
from drel_core.decision.score_adjustment import AdjustScores, ScoreAdjustment, folded
from drel_core.errors import InputError
from drel_core.model.image_encoder import ImageEncoder
from drel_core.model.towers import DREL, ModelConfig, prior_bias
from drel_core.scoring.tag_search import DEEPEST, TagSearch
from drel_core.scoring.topk import check_best, topk_blockwise

_CACHED = (
    1 << 20
)  # numbers that a core's cache holds: what is done to them does not wait for memory


def table_file(part: int, parts: int) -> str:
    return f"tag_embedding-{part:05d}-of-{parts:05d}.safetensors"


def write_table_part(
    folder: Path,
    part: int,
    parts: int,
    start: int,
    weight_nE: Tensor,
    state_n: Tensor | None = None,
) -> None:
    """Write the rows of the tag table that one rank owns.

    Args:
        part, parts: number of this file, and of all files.
        start: tag id of the first row.
        weight_nE: the rows.
        state_n: their row-wise Adagrad state, which ``jobs.update`` goes on from.
    """
    tensors = {"weight": weight_nE.detach().cpu().contiguous(), "start": torch.tensor(start)}
    if state_n is not None:
        tensors["state"] = state_n.cpu().contiguous()
    save_tensors(tensors, folder / table_file(part, parts))


def write_towers(folder: Path, model: DREL) -> None:
    save_tensors(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
    )


class TagSide(NamedTuple):
    """The tags as images meet them: their score is ``x . y_t + b_t``.

    Attributes:
        tag_TL, bias_T: float32.
    """

    tag_TL: Tensor
    bias_T: Tensor

    @staticmethod
    def empty(tags: int, latent: int) -> TagSide:
        return TagSide(torch.empty(tags, latent), torch.empty(tags))


class DRELAnnotator:
    """A trained DREL model. The tag side is encoded once, so that annotating an image costs O(T).

    Args:
        model: towers and M.
        side: the encoded tags, with prior and calibration in them (``TagSide``).
        vocabulary: names and training counts.
        info: ``config.json``.
        adjustment: what comes on top of the scores of ``side``: the kernel.
        decider: makes scores probabilities; None where nothing is known of them.

    Attributes:
        search: finds the best tags by codes; None where all tags are scored.
        rules: what answers keep to; None where the bundle has none.
    """

    rules: AnswerRules | None = None

    def __init__(
        self,
        model: DREL,
        side: TagSide,
        vocabulary: Vocabulary,
        info: BundleInfo,
        adjustment: ScoreAdjustment | None = None,
        decider: Decider | None = None,
    ) -> None:
        self.model = model.eval()
        self._encoder = ImageEncoder(self.model)
        self.vocabulary = vocabulary
        self.info = info
        self.decider = decider
        self._adjustment = adjustment or ScoreAdjustment(torch.zeros(len(vocabulary)))
        self.tag_TL, self.bias_T = side
        self.search: TagSearch | None = None
        self.name = info.method
        self.num_tags = len(vocabulary)

    @classmethod
    def load(
        cls, folder: Path, info: BundleInfo, vocabulary: Vocabulary, side: TagSide | None = None
    ) -> DRELAnnotator:
        """Read towers and rows, and encode the tags.

        Args:
            side: what ``encode_side`` gave of this bundle before; None: it is encoded now.

        Raises:
            InputError: a part is out of place, or rows and vocabulary differ in number.
            Exception: what reading damaged files raises.
        """
        model = read_towers(folder, info)
        adjustment = ScoreAdjustment.load(folder, prior_of(vocabulary, model), model.image_dim)
        if side is None:
            side = TagSide.empty(len(vocabulary), model.config.latent)
            encode_side(folder, info, vocabulary, model, adjustment.decider, side)
        left = adjustment.without_calibration()
        return cls(model, side, vocabulary, info, left, adjustment.decider)

    @property
    def image_dim(self) -> int:
        return self.model.image_dim

    @torch.inference_mode()
    def scores(self, features_BD: Tensor) -> Tensor:
        image_BL, adjust = self._encode(features_BD)
        z_BT = adjust(torch.addmm(self.bias_T, image_BL, self.tag_TL.T), slice(None))
        return z_BT if self.decider is None else self.decider.all_probabilities(z_BT)

    @torch.inference_mode()
    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Scores and tag ids ``[B, min(k, T)]`` of the k best tags; no matrix of B x T scores is made.

        With ``search``, up to 50 tags are found by codes and scored in float32.
        """
        depth = k if self.decider is None else self.decider.candidates(k, "top")
        best_BM, tag_BM = self._best(features_BD, depth)
        if self.decider is not None:
            best_BM = self.decider.probabilities(best_BM, k)
        check_best(best_BM)
        return best_BM, tag_BM[:, :k]

    @torch.inference_mode()
    def best_order(self, features_BD: Tensor) -> Tensor:
        """What orders tags (``Calibration.order``) of the tags that an image's level is made of, ``[B, M]``,
        best first."""
        return self._best(features_BD, LEVEL_TAGS)[0]

    def _best(self, features_BD: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        image_BL, adjust = self._encode(features_BD)
        if self.search is not None and depth <= DEEPEST:
            return self.search.best(image_BL, depth)
        return topk_blockwise(image_BL, self.tag_TL, depth, self.bias_T, adjust=adjust)

    @torch.inference_mode()
    def latents(self, features_BD: Tensor) -> Tensor:
        """``[B, L]`` of raw features."""
        return self._encoder.latents(features_BD)

    def _encode(self, features_BD: Tensor) -> tuple[Tensor, AdjustScores]:
        """Latents ``[B, L]`` of raw features, and the function that adjusts their scores."""
        return self._encoder.latents(features_BD), self._adjustment.for_images(
            self.model, features_BD
        )


def read_towers(folder: Path, info: BundleInfo) -> DREL:
    """Towers and M of a bundle, in evaluation mode.

    Raises:
        Exception: what reading damaged files raises.
    """
    config = dict(info.content["model"])
    # Sizes come from a file: on "meta" nothing is allocated before they are compared with the tensors.
    with torch.device("meta"):
        model = DREL(config.pop("image_dim"), ModelConfig(**config))
    held = load_tensors(folder / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in held.items()}, assign=True)
    return model.eval()


def prior_of(vocabulary: Vocabulary, model: DREL) -> Tensor:
    """float32 ``[T]``: the frequency prior of each tag."""
    return prior_bias(torch.from_numpy(vocabulary.counts), model.config)


def has_kernel(folder: Path) -> bool:
    """Whether a bundle scores all tags by the kernel of an image as well."""
    return (folder / KERNEL).is_file()


@torch.inference_mode()
def encode_side(
    folder: Path,
    info: BundleInfo,
    vocabulary: Vocabulary,
    model: DREL,
    decider: Decider | None,
    side: TagSide,
) -> None:
    """Fill the tag side of a bundle, with prior and calibration in it. No second copy of it is made.

    Raises:
        InputError, Exception: see ``encoded_tags``.
    """
    start = 0
    block = max(1, _CACHED // side.tag_TL.shape[1])
    for tag_nL1 in folded_tags(folder, info, vocabulary, model, decider, block):
        part = slice(start, start + len(tag_nL1))
        side.tag_TL[part], side.bias_T[part] = tag_nL1[:, :-1], tag_nL1[:, -1]
        start = part.stop


def folded_tags(
    folder: Path,
    info: BundleInfo,
    vocabulary: Vocabulary,
    model: DREL,
    decider: Decider | None,
    block: int = 65536,
) -> Iterator[Tensor]:
    """``encoded_tags`` with the calibration in them.

    Raises:
        InputError, Exception: see ``encoded_tags``.
    """
    start = 0
    for tag_nL1 in encoded_tags(folder, info, vocabulary, model, block):
        stop = start + len(tag_nL1)
        yield folded(tag_nL1, decider, slice(start, stop))
        start = stop


def encoded_tags(
    folder: Path, info: BundleInfo, vocabulary: Vocabulary, model: DREL, block: int = 65536
) -> Iterator[Tensor]:
    """Encoded tags ``[n, L + 1]`` with the prior in the bias, at most ``block`` tags at a time, in order.

    Raises:
        InputError: a part is out of place, or rows and vocabulary differ in number.
        Exception: what reading damaged files raises.
    """
    count, found = info.content["table_parts"], 0
    adjustment = ScoreAdjustment(prior_of(vocabulary, model))
    for part in range(count):
        with open_tensors(folder / table_file(part, count)) as file:
            weight = file.get_slice("weight")
            rows = weight.get_shape()[0]
            if rows and int(file.get_tensor("start")) != found:
                raise InputError(f"{folder}: {table_file(part, count)} is out of place")
            if found + rows > len(vocabulary):
                raise InputError(f"{folder}: more table rows than {len(vocabulary)} tags")
            for low in range(0, rows, block):
                with torch.inference_mode():
                    tag_nL1 = model.encode_tags(weight[low : low + block], with_metric=True)
                    start = found + low
                    adjustment.add_prior(tag_nL1, slice(start, start + len(tag_nL1)))
                if not is_finite(tag_nL1):
                    raise InputError(f"{folder}: {table_file(part, count)} gives NaN or Inf")
                yield tag_nL1
        found += rows
    if found != len(vocabulary):
        raise InputError(f"{folder}: {found} table rows for {len(vocabulary)} tags")

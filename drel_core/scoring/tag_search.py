"""The best of very many tags: codes of a few bits choose candidates, float32 scores put them in order.

Codes (``tag_codes``) are searched by look-ups in registers (André et al., 2015, "Cache locality is not
enough"; faiss calls it fast scan): about an eighth of the bytes that float32 scores read, and no
multiplications.

Shapes: B images, n some of them, L latent size, T tags, K candidates, k best tags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from drel_core.scoring.tag_codes import PART_NUMBERS, TagCodes, encode_tags
from drel_core.scoring.topk import NoBestScore, topk, topk_blockwise

Search = Literal["auto", "exact"]
"""How the best tags are found. auto: by codes, where there are many tags and codes find LEAST_RECALL of the
best ones of the model's own rows; else as exact. exact: every tag is scored."""
DEEPEST = 50
"""Most tags of an image that codes are checked for; deeper lists are searched exactly."""
LEAST_RECALL = 0.999
DISTORTIONS = (0.05, 0.0125)
"""What codes may lose (``encode_tags``), tried in order."""
_CANDIDATES = (128, 256, 512, 1024)
_RESERVOIR_SEARCH = 15  # faiss's IndexFastScan.implem: the fastest here for one image and for many


class TagSearch:
    """Finds the best tags of images by codes.

    Args:
        codes: of the tags.
        tag_TL, bias_T: float32, what scores are made of.
        candidates: K, how many tags codes choose for an image.
        recall: share of the best tags that were found where it was measured.
    """

    def __init__(
        self, codes: TagCodes, tag_TL: Tensor, bias_T: Tensor, candidates: int, recall: float
    ) -> None:
        self.tag_TL, self.bias_T = tag_TL, bias_T
        self.candidates, self.recall = candidates, recall
        self._index = _index(codes)
        self._codes = replace(codes, code_Th=codes.code_Th[:0].clone())  # the index has them now

    @staticmethod
    def measured(codes: TagCodes, tag_TL: Tensor, bias_T: Tensor, image_nL: Tensor) -> TagSearch:
        """With the least number of candidates that finds LEAST_RECALL of the best tags, at 5 and at DEEPEST
        tags an image; with the most that are tried where none does.

        Args:
            image_nL: finite latents of images to measure with, at least one.
        """
        search = TagSearch(codes, tag_TL, bias_T, min(_CANDIDATES[-1], len(tag_TL)), 0.0)
        _, exact_tag_nk = topk_blockwise(image_nL, tag_TL, DEEPEST, bias_T)
        # Added up as those of candidates are: two ways of adding up L products round differently.
        exact_nk = search._scores(image_nL, exact_tag_nk)
        score_nK = search._scores(image_nL, search._candidates(image_nL))
        # Ordering candidates must not cost more than finding them.
        most = max(256, len(tag_TL) // 128)
        for candidates in (count for count in _CANDIDATES if count <= most):
            search.candidates = candidates
            part_nK = score_nK[:, :candidates]
            search.recall = min(_recall(part_nK, exact_nk, k) for k in (5, DEEPEST))
            if search.recall >= LEAST_RECALL:
                break
        return search

    def best(self, image_BL: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """float32 scores and tag ids, both ``[B, k]``, best first, ties by lowest id.

        Args:
            k: at most DEEPEST.

        Raises:
            NoBestScore: a row is NaN or infinite.
        """
        bad_B = ~torch.isfinite(image_BL).all(1)
        if bad_B.any():
            raise NoBestScore(bad_B)
        tag_BK = self._candidates(image_BL)
        if not len(tag_BK) or (tag_BK < 0).any():  # so large that tables of look-ups overflow
            return topk_blockwise(image_BL, self.tag_TL, k, self.bias_T)
        tag_BK = tag_BK.sort(1).values
        score_Bk, place_Bk = topk(self._scores(image_BL, tag_BK), k)
        return score_Bk, tag_BK.gather(1, place_Bk)

    def _candidates(self, image_BL: Tensor) -> Tensor:
        """Tag ids ``[B, K]``, best by their codes first; -1 where there is none."""
        query_BQ = self._codes.query(image_BL).contiguous()
        _, tag_BK = self._index.search(query_BQ.numpy(), self.candidates)
        return torch.from_numpy(tag_BK)

    def _scores(self, image_BL: Tensor, tag_BK: Tensor) -> Tensor:
        """float32 ``[B, K]`` of some tags of each image. No row of ``tag_TL`` is copied."""
        import faiss

        image_BL, tag_BK = image_BL.contiguous(), tag_BK.contiguous()
        score_BK = torch.empty(tag_BK.shape)
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
            *(faiss.swig_ptr(part.numpy()) for part in (score_BK, image_BL, self.tag_TL, tag_BK)),
            self.tag_TL.shape[1],
            *tag_BK.shape,
        )
        return score_BK.add_(self.bias_T[tag_BK])


def _index(codes: TagCodes) -> Any:
    import faiss  # slow to import

    # faiss has threads of its own, and searches the images of a batch in them.
    faiss.omp_set_num_threads(torch.get_num_threads())
    plain: Any = faiss.IndexPQ(
        codes.parts * PART_NUMBERS, codes.parts, 4, faiss.METRIC_INNER_PRODUCT
    )
    faiss.copy_array_to_vector(codes.level_MCS.numpy().reshape(-1), plain.pq.centroids)
    plain.is_trained = True
    plain.add_sa_codes(codes.code_Th.numpy())
    index = faiss.IndexPQFastScan(plain)
    index.implem = _RESERVOIR_SEARCH
    return index


def _recall(score_nK: Tensor, exact_nk: Tensor, k: int) -> float:
    """Share of the k best tags that are among candidates. Tags whose scores are equal stand for each
    other."""
    k = min(k, exact_nk.shape[1])
    least_n1 = exact_nk[:, :k].min(1, keepdim=True).values
    found_n = (score_nK >= least_n1).sum(1).clamp(max=k)
    return float(found_n.double().mean() / k)


def find_search(tag_TL: Tensor, bias_T: Tensor, image_nL: Tensor) -> tuple[TagCodes, TagSearch]:
    """Codes as coarse as they may be, and the search by them; ``recall`` says whether it may stand for the
    exact one.

    Args:
        image_nL: finite latents of images to measure with, at least one.
    """
    for distortion in DISTORTIONS:
        codes = encode_tags(tag_TL, bias_T, image_nL, distortion)
        search = TagSearch.measured(codes, tag_TL, bias_T, image_nL)
        if search.recall >= LEAST_RECALL:
            break
    return codes, search

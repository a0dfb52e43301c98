"""The rules of a vocabulary in answers: no dog without an animal, one season at most, no blocked tag.

Shapes: B images, M candidate tags of each, T tags, k tags of an answer, e (implying, implied) pairs, c
(image, tag) pairs of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drel_core.bundle.tag_rules import TagRules

_SPARE = 16
_EDGES = 1 << 22  # numbers that are gathered at a time


class AnswerRules:
    """Rules as the tags of a model meet them.

    A tag is at least as probable as what implies it. Answers are made in the order of what a decision goes
    by, of equals the implied tag first. So each tag stands behind all that it implies, and an answer that is
    cut short, by k or by its reader, keeps to the rules as well.

    Args:
        rules: of any vocabulary; what they say of tags that this model does not have says nothing here.
        names: of the model's tags.

    Attributes:
        rules: as given.
        hidden_T: bool, tags that are never said: blocked ones, and spellings of other tags of the model.
        spare: how many more candidates an answer should be given, since some may fall out.
    """

    def __init__(self, rules: TagRules, names: Sequence[str]) -> None:
        self.rules = rules
        named = {*rules.aliases, *rules.tags()}
        place = {name: tag for tag, name in enumerate(names) if name in named}
        self.num_tags = len(names)
        self.hidden_T = torch.zeros(len(names), dtype=torch.bool)
        blocked, edges = set(rules.blocked), []
        for name, tag in place.items():
            canonical = rules.tag_of(name)
            if canonical in blocked:
                self.hidden_T[tag] = True
                continue
            meant = rules.with_implied(canonical)
            # Where the model does not have the tag of a spelling, the spelling goes on being said.
            self.hidden_T[tag] = canonical != name and canonical in place
            edges += [(tag, place[other]) for other in meant if other in place and other != name]
        self._members = {
            name: [place[tag] for tag in group.tags if tag in place]
            for name, group in rules.groups.items()
        }
        self._source_e, self._target_e = np.array(edges, np.int64).reshape(-1, 2).T
        self._count_T = np.bincount(self._source_e, minlength=len(names))
        self._start_T = np.cumsum(self._count_T) - self._count_T
        order = np.argsort(self._source_e, kind="stable")
        self._source_e, self._target_e = self._source_e[order], self._target_e[order]
        # Of equally probable tags the one that implies fewer comes first. Its own implied tags are fewer
        # still, since implications are closed.
        self._depth_T = self._count_T
        self._limits = [
            (group.at_most, set(self._members[name]))
            for name, group in rules.groups.items()
            if group.at_most is not None
        ]
        self._limits = [(most, tags) for most, tags in self._limits if len(tags) > most]
        self.touched_T = self.hidden_T | torch.from_numpy(self._count_T > 0)
        for _, tags in self._limits:
            self.touched_T[list(tags)] = True
        falls_out = int(self.hidden_T.sum()) + sum(len(tags) - most for most, tags in self._limits)
        self.spare = min(_SPARE, falls_out)

    def __bool__(self) -> bool:
        """Whether any answer of the model can be another one."""
        return bool(self.touched_T.any())

    def as_ids(self) -> dict[str, Any]:
        """What ``choose`` goes by, in plain numbers: hidden tags, tags that each tag implies, and of each
        group with a limit the limit and its tags."""
        implied: dict[str, list[int]] = {}
        for tag, other in zip(self._source_e.tolist(), self._target_e.tolist(), strict=True):
            implied.setdefault(str(tag), []).append(other)
        return {
            "hidden": self.hidden_T.nonzero()[:, 0].tolist(),
            "implied": implied,
            "limits": [[most, sorted(tags)] for most, tags in self._limits],
        }

    def lifted(self, score_BT: Tensor) -> Tensor:
        """Scores of all tags, each at least that of what implies it; hidden tags have the lowest of their
        image."""
        if not self:
            return score_BT
        out_BT = score_BT.clone()
        block = max(1, _EDGES // max(1, len(score_BT)))
        for low in range(0, len(self._source_e), block):
            source_e = torch.from_numpy(self._source_e[low : low + block])
            target_e = torch.from_numpy(self._target_e[low : low + block])
            target_Be = target_e.expand(len(score_BT), len(target_e))
            out_BT.scatter_reduce_(1, target_Be, score_BT[:, source_e], "amax")
        lowest_B1 = score_BT.amin(1, keepdim=True)
        return torch.where(self.hidden_T, lowest_B1, out_BT)

    def choose(
        self,
        probability_BM: Tensor,
        tag_BM: Tensor,
        value_BM: Tensor,
        k: int,
        limited: bool = True,
        only_T: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answers of candidates.

        Args:
            probability_BM, tag_BM: different tags of each image, best first; -1 is none. The order tells
                equally probable ones apart.
            value_BM: what the decision goes by: higher is chosen first, ``-inf`` is not chosen unless
                something implies it that is.
            k: most tags of an answer.
            limited: no group gives more than its limit.
            only_T: bool, the tags that are asked for; others are left out though they be implied.

        Returns:
            probability, tag and whether there is one, ``[B, k]``, most probable first.
        """
        there_BM = (tag_BM >= 0).cpu().numpy()
        row_n, rank_n = np.nonzero(there_BM)
        tag_n, value_n, probability_n = (
            part_BM.cpu().numpy()[there_BM] for part_BM in (tag_BM, value_BM, probability_BM)
        )
        # Candidates, and behind them what they imply with the numbers of what implies it.
        count_n = self._count_T[tag_n]
        ends_n = np.cumsum(count_n)
        step = np.arange(ends_n[-1] if len(ends_n) else 0)
        edge = step - np.repeat(ends_n - count_n - self._start_T[tag_n], count_n)
        source = np.concatenate([np.arange(len(tag_n)), np.repeat(np.arange(len(tag_n)), count_n)])
        every_tag = np.concatenate([tag_n, self._target_e[edge]])
        key_c, place = np.unique(row_n[source] * self.num_tags + every_tag, return_inverse=True)
        probability_c, value_c = (
            np.full(len(key_c), -np.inf, dtype=of_n.dtype) for of_n in (probability_n, value_n)
        )
        np.maximum.at(probability_c, place, probability_n[source])
        np.maximum.at(value_c, place, value_n[source])
        rank_c = np.full(len(key_c), there_BM.shape[1])
        np.minimum.at(rank_c, place, rank_n[source])
        row_c, tag_c = np.divmod(key_c, self.num_tags)
        wanted_T = ~self.hidden_T if only_T is None else ~self.hidden_T & only_T
        keep_c = wanted_T.numpy()[tag_c] & (value_c > -np.inf)
        order = np.lexsort((tag_c, self._depth_T[tag_c], rank_c, -value_c, row_c))
        order = order[keep_c[order]]
        if limited:
            order = order[self._within_limits(row_c[order], tag_c[order])]
        order = order[_place_in_row(row_c[order]) < k]  # each stands behind what it implies
        row, tag = row_c[order], tag_c[order]
        order = order[
            np.lexsort((tag, self._depth_T[tag], rank_c[order], -probability_c[order], row))
        ]
        row, tag, probability = row_c[order], tag_c[order], probability_c[order]
        shape = (len(tag_BM), k)
        place_k = _place_in_row(row)
        out_probability = np.zeros(shape, dtype=probability_n.dtype)
        out_tag, out_keep = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        out_probability[row, place_k], out_tag[row, place_k] = probability, tag
        out_keep[row, place_k] = True
        found = (torch.from_numpy(part) for part in (out_probability, out_tag, out_keep))
        probability_Bk, tag_Bk, keep_Bk = (part.to(tag_BM.device) for part in found)
        return probability_Bk, tag_Bk, keep_Bk

    def _within_limits(self, row_c: np.ndarray, tag_c: np.ndarray) -> np.ndarray:
        """bool: which tags stay when no group gives more than its limit; the first of each image stay, and
        what implies a tag that goes, goes as well. Sorted by image, each tag behind what it implies."""
        keep_c = np.ones(len(tag_c), dtype=bool)
        crowded = set[int]()
        for most, members in self._limits:
            is_in = np.isin(tag_c, list(members))
            crowded |= set(np.flatnonzero(np.bincount(row_c[is_in]) > most).tolist())
        for row in crowded:
            low, high = np.searchsorted(row_c, [row, row + 1])
            left = [most for most, _ in self._limits]
            gone = set[int]()
            for place, tag in enumerate(tag_c[low:high].tolist(), int(low)):
                groups = [g for g, (_, members) in enumerate(self._limits) if tag in members]
                start = self._start_T[tag]
                implied = self._target_e[start : start + self._count_T[tag]].tolist()
                if any(not left[g] for g in groups) or not gone.isdisjoint(implied):
                    gone.add(tag)
                    keep_c[place] = False
                    continue
                for g in groups:
                    left[g] -= 1
        return keep_c

    def members(self, group: str) -> Tensor:
        """bool ``[T]``: the tags of a group that may be said.

        Raises:
            KeyError: no such group.
        """
        members_T = torch.zeros(self.num_tags, dtype=torch.bool)
        members_T[self._members[group]] = True
        return members_T & ~self.hidden_T

    def implied_by(self, tags: Sequence[int], scores: Sequence[float]) -> list[int | None]:
        """Of the tags of one answer those that are as probable as they are because of another one of it:
        which. Of several the most special."""
        place = {tag: at for at, tag in enumerate(tags)}
        found: list[int | None] = [None] * len(tags)
        for tag in sorted(tags, key=lambda tag: self._count_T[tag]):
            start = self._start_T[tag]
            for other in self._target_e[start : start + self._count_T[tag]].tolist():
                at = place.get(other)
                if at is not None and scores[at] == scores[place[tag]]:
                    found[at] = tag
        return found


def _place_in_row(row_c: np.ndarray) -> np.ndarray:
    """How many of the same row come before; rows are sorted."""
    first = np.searchsorted(row_c, row_c, side="left")
    place: np.ndarray = np.arange(len(row_c)) - first
    return place

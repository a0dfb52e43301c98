"""Answers by the rules of the vocabulary (rules.json): no dog without an animal, no blocked tag."""

import json
from pathlib import Path

import numpy as np

RULES = json.loads((Path(__file__).resolve().parent.parent / "rules.json").read_text("utf-8"))
HIDDEN = set(RULES["hidden"])  # blocked tags, and other spellings of tags
IMPLIED = {int(tag): others for tag, others in RULES["implied"].items()}
LIMITS = [(most, set(tags)) for most, tags in RULES["limits"]]  # groups
SPARE = len(HIDDEN) + sum(len(tags) - most for most, tags in LIMITS)
"""How many candidates may fall out of an answer."""


def by_rules(score: np.ndarray, tag: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and tags [B, k] of candidates [B, k + SPARE]; tag -1 where the rules leave none.

    A tag is at least as probable as what implies it, and stands before it.
    """
    best, chosen = np.zeros((len(tag), k), score.dtype), np.full((len(tag), k), -1)
    for row in range(len(tag)):
        found: dict[int, float] = {}
        for t, p in zip(tag[row].tolist(), score[row].tolist(), strict=True):
            for one in (t, *IMPLIED.get(t, ())):
                found[one] = max(p, found.get(one, p))
        order = sorted(found, key=lambda t: (-found[t], len(IMPLIED.get(t, ())), t))
        left, gone, place = [most for most, _ in LIMITS], set(HIDDEN), 0
        for t in order:
            groups = [g for g, (_, tags) in enumerate(LIMITS) if t in tags]
            full = any(left[g] == 0 for g in groups)
            if t in gone or full or not gone.isdisjoint(IMPLIED.get(t, ())):
                gone.add(t)
                continue
            for g in groups:
                left[g] -= 1
            if place < k:
                best[row, place], chosen[row, place] = found[t], t
                place += 1
    return best, chosen

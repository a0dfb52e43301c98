"""Answers by the rules of the vocabulary (rules.json): no dog without an animal, no blocked tag."""

import json
from pathlib import Path

import numpy as np

RULES = json.loads((Path(__file__).resolve().parent.parent / "rules.json").read_text("utf-8"))
HIDDEN = set(RULES["hidden"])  # blocked tags, and other spellings of tags
IMPLIED = {int(tag): others for tag, others in RULES["implied"].items()}
LIMITS = [(most, set(tags)) for most, tags in RULES["limits"]]  # groups
FEW = set().union(*(tags for _, tags in LIMITS))
NEEDS_FEW = {tag for tag, others in IMPLIED.items() if not FEW.isdisjoint(others)}
SPARE = len(HIDDEN) + sum(len(tags) - most for most, tags in LIMITS) + len(NEEDS_FEW)
"""How many candidates may fall out of an answer: where a group is full, what implies a tag of it as well."""


def by_rules(score: np.ndarray, tag: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and tags [B, k] of candidates [B, k + SPARE], best first; tag -1 where the rules leave none.

    A tag is at least as probable as what implies it, and stands before it.
    """
    best, chosen = np.zeros((len(tag), k), score.dtype), np.full((len(tag), k), -1)
    for row in range(len(tag)):
        found: dict[int, int] = {}  # places, in which equally probable ones differ
        for at, t in enumerate(tag[row].tolist()):
            for one in (t, *IMPLIED.get(t, ())):
                found.setdefault(one, at)
        order = sorted(found, key=lambda t: (found[t], len(IMPLIED.get(t, ())), t))
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
                best[row, place], chosen[row, place] = score[row, found[t]], t
                place += 1
    return best, chosen

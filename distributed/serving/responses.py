"""Bodies of answers that hold scores. Scores keep every digit of their float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.responses import Response
from pydantic_core import to_json

from distributed.serving.scoring import Scored


class ScoredResponse(Response):
    """A JSON answer that holds scores.

    Attributes:
        version: of the model that made them; metrics count the answer as its.
    """

    def __init__(self, body: bytes, scored: Scored) -> None:
        super().__init__(body, media_type="application/json")
        self.version = scored.model.version


def annotate_json(scored: Scored, lang: str | None = None) -> bytes:
    """An ``AnnotateResponse``: the tags of each row that are to be said.

    Args:
        lang: language of display names.
    """
    model, score_Bk, tag_Bk, keep_Bk = scored.model, scored.score_Bk, scored.tag_Bk, scored.keep_Bk
    if lang is not None or model.rules or model.unseen_T is not None:
        return to_json({"model": model.version, "results": _by_rules(scored, lang)})
    results = []
    name_Bk = model.names[tag_Bk]
    for row, (names, scores) in enumerate(zip(name_Bk.tolist(), score_Bk.tolist(), strict=True)):
        pairs: Iterable[tuple[str, float]] = zip(names, scores, strict=True)
        if keep_Bk is not None:
            keeps = keep_Bk[row].tolist()
            pairs = (pair for pair, keep in zip(pairs, keeps, strict=True) if keep)
        results.append({"tags": [{"tag": name, "score": score} for name, score in pairs]})
    return to_json({"model": model.version, "results": results})


def _by_rules(scored: Scored, lang: str | None) -> list[dict[str, Any]]:
    """Tags with why they are implied, and with their names in a language."""
    model, keep_Bk, rules = scored.model, scored.keep_Bk, scored.model.rules
    unseen_T = model.unseen_T
    results = []
    rows = zip(scored.tag_Bk.tolist(), scored.score_Bk.tolist(), strict=True)
    for row, (tags, scores) in enumerate(rows):
        if keep_Bk is not None:
            places = keep_Bk[row].nonzero()[0].tolist()
            tags, scores = [tags[at] for at in places], [scores[at] for at in places]
        why = [None] * len(tags) if rules is None else rules.implied_by(tags, scores)
        said = []
        for tag, score, by in zip(tags, scores, why, strict=True):
            one: dict[str, Any] = {"tag": model.names[tag], "score": score}
            if by is not None:
                one["implied_by"] = model.names[by]
            if unseen_T is not None and unseen_T[tag]:
                one["unseen"] = True
            if lang is not None:
                one["name"] = model.display_name(tag, lang)
            said.append(one)
        results.append({"tags": said})
    return results


def infer_json(scored: Scored, identity: str | None) -> bytes:
    """An ``InferResponse``: names and scores ``[B, k]``, flat.

    Args:
        identity: the request's ``id``.
    """
    shape = list(scored.score_Bk.shape)
    names = scored.model.names[scored.tag_Bk.reshape(-1)].tolist()
    scores = scored.score_Bk.reshape(-1).tolist()
    if scored.keep_Bk is not None:
        # A tensor has no gaps: where rules leave no tag its name is empty.
        keeps = scored.keep_Bk.reshape(-1).tolist()
        names = [name if keep else "" for name, keep in zip(names, keeps, strict=True)]
    return to_json(
        {
            "model_name": "drel",
            "model_version": scored.model.version,
            **({"id": identity} if identity is not None else {}),
            "outputs": [
                {"name": "tags", "shape": shape, "datatype": "BYTES", "data": names},
                {"name": "scores", "shape": shape, "datatype": "FP32", "data": scores},
            ],
        }
    )

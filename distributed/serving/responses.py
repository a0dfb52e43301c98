"""Bodies of answers that hold scores. Scores keep every digit of their float32."""

from __future__ import annotations

from collections.abc import Iterable

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


def annotate_json(scored: Scored) -> bytes:
    """An ``AnnotateResponse``: the tags of each row that are to be said."""
    model, score_Bk, tag_Bk, keep_Bk = scored.model, scored.score_Bk, scored.tag_Bk, scored.keep_Bk
    results = []
    name_Bk = model.names[tag_Bk]
    for row, (names, scores) in enumerate(zip(name_Bk.tolist(), score_Bk.tolist(), strict=True)):
        pairs: Iterable[tuple[str, float]] = zip(names, scores, strict=True)
        if keep_Bk is not None:
            keeps = keep_Bk[row].tolist()
            pairs = (pair for pair, keep in zip(pairs, keeps, strict=True) if keep)
        results.append({"tags": [{"tag": name, "score": score} for name, score in pairs]})
    return to_json({"model": model.version, "results": results})


def infer_json(scored: Scored, identity: str | None) -> bytes:
    """An ``InferResponse``: names and scores ``[B, k]``, flat.

    Args:
        identity: the request's ``id``.
    """
    shape = list(scored.score_Bk.shape)
    names = scored.model.names[scored.tag_Bk.reshape(-1)].tolist()
    scores = scored.score_Bk.reshape(-1).tolist()
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

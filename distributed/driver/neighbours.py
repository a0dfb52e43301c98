"""Do images with like features have like tags? Asked of small stores before they are trained on.

A model can learn some thousand rows by heart, also where features and tags are of different images.
Then its figures on training rows say nothing, and this question does, at the cost of no row.

Shapes: n rows, T tags, D feature size, q rows that are asked about, k neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection
from distributed.data.survey import StoreSurvey

_ROWS, _ASKED, _LEAST, _NEIGHBOURS = 5000, 1000, 200, 5
_SHUFFLES, _DEVIATIONS = 50, 3.0


def unrelated(survey: StoreSurvey, columns: Columns, seed: int) -> str | None:
    """What to say where neighbours have no more tags in common than any rows; None where they have, and of
    fewer than 200 rows.

    What any rows have in common is measured with the tags put in random order, 50 times: a row that is the
    neighbour of many counts as often there.
    """
    rows = load_rows(_some(survey.train), columns, survey.index)
    count = len(rows)
    if count < _LEAST:
        return None
    generator = np.random.default_rng(seed)
    value_nD = (rows.features_BD.double() - torch.from_numpy(survey.mean_D)) / torch.from_numpy(
        survey.std_D
    )
    value_nD = torch.nn.functional.normalize(value_nD.float())
    asked_q = generator.permutation(count)[:_ASKED]
    alike_qn = value_nD[asked_q] @ value_nD.T
    alike_qn[torch.arange(len(asked_q)), torch.from_numpy(asked_q)] = -2  # not a row with itself
    near_qk = alike_qn.topk(_NEIGHBOURS, dim=1).indices.numpy()

    tags = rows.tags
    length_n = np.maximum(tags.counts.numpy(), 1)
    has_nT = sparse.csr_array(
        (
            np.repeat(1 / np.sqrt(length_n), tags.counts.numpy()),
            tags.values.numpy(),
            tags.offsets.numpy(),
        ),
        shape=(count, len(survey.names)),
    )

    def common(order_n: np.ndarray) -> float:
        """Mean cosine of the tags of rows and their neighbours, with the tags in this order."""
        ours, theirs = order_n[np.repeat(asked_q, _NEIGHBOURS)], order_n[near_qk.reshape(-1)]
        return float(has_nT[ours].multiply(has_nT[theirs]).sum() / len(ours))

    chance = [common(generator.permutation(count)) for _ in range(_SHUFFLES)]
    limit = np.mean(chance) + _DEVIATIONS * np.std(chance)
    found = common(np.arange(count))
    if found > limit:
        return None
    return (
        f"images with like features have no more tags in common than any images ({found:.3f} against "
        f"{np.mean(chance):.3f}): the features and the tags of a row may be of different images"
    )


def _some(selections: list[RowSelection]) -> list[RowSelection]:
    """Evenly spaced ones that hold enough rows, or all."""
    total = sum(selection.take for selection in selections)
    count = min(len(selections), max(1, -(-len(selections) * _ROWS // total)))
    return [selections[place * len(selections) // count] for place in range(count)]

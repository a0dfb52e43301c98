"""The drawings of a report. Shapes: b bins of probability, n tags on the map."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from distributed.reporting.curves import Curves, Line
from distributed.reporting.facts import Facts
from distributed.reporting.svg import Axis, Chart
from distributed.reporting.tag_map import labels, shortened
from drel_core.scoring.reliability import LEAST_PROBABILITY, RELIABILITY_BINS

_MAP_WIDTH, _MAP_HEIGHT, _MAP_EDGE = 1120, 720, 26
_MARKS = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
_SHAPES = {"top": "circle", "macro": "square", "threshold": "triangle"}


def reliability_chart(table: list[dict[str, float]]) -> str:
    """Of each tenth of probability how many were right, with 95% intervals.

    Args:
        table: see ``reliability_table``.
    """
    chart = Chart(
        "predicted probability and share that is right",
        Axis.share("predicted probability"),
        Axis.share("share that is right"),
    )
    chart.line([(0, 0), (1, 1)], "ideal")
    chart.line([(row["probability"], row["right"]) for row in table], "main")
    for row in table:
        low, high = interval(row["right"], int(row["pairs"]))
        chart.line([(row["probability"], low), (row["probability"], high)], "range")
        said = (
            f"said {row['probability']:.1%}: right {row['right']:.1%} of {row['pairs']:,} "
            f"(95% interval {low:.0%} to {high:.0%})"
        )
        chart.dot(row["probability"], row["right"], "main", said)
    return chart.svg()


def counts_chart(table: list[dict[str, float]]) -> str:
    """How many pairs each tenth of probability has."""
    counts = [float(row["pairs"]) for row in table]
    most = max(counts)
    high = 10.0 ** math.ceil(math.log10(most * 1.01))
    powers = range(0, round(math.log10(high)) + 1)
    step = max(1, len(powers) // 4)
    ticks = tuple((10.0**power, short(10**power)) for power in powers if power % step == 0)
    chart = Chart(
        "pairs in each tenth of probability",
        Axis.share("predicted probability"),
        Axis(0.7, high, "tags said (log)", ticks, True),
        height=170,
    )
    for row in table:
        low = math.floor(row["probability"] * 10) / 10
        said = f"{row['pairs']:,} tags with {low:.0%} to {low + 0.1:.0%}"
        chart.bar(max(low, LEAST_PROBABILITY), low + 0.1, row["pairs"], "bars", said)
    return chart.svg()


def short(count: int) -> str:
    """``100``, ``10k``, ``1M``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return str(count)


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def precision_recall_chart(reliability_b2: Tensor, relevant: int, decisions: dict[str, Any]) -> str:
    """Precision and recall of all tags that are at least so probable, and of each decision.

    Args:
        reliability_b2: see ``scoring.reliability``.
        relevant: true pairs in all.
        decisions: figures of each decision.
    """
    least = round(LEAST_PROBABILITY * RELIABILITY_BINS)
    said_b, hit_b = reliability_b2[least:].flip(0).cumsum(0).double().numpy().T
    there_b = said_b > 0
    precision_b = hit_b[there_b] / said_b[there_b]
    recall_b = hit_b[there_b] / max(1, relevant)
    points = list(zip(recall_b.tolist(), precision_b.tolist(), strict=True))
    chart = Chart(
        "precision and recall as the least probability falls",
        Axis.share("recall"),
        Axis.share("precision"),
    )
    steady = int((said_b[there_b] < 20).sum())  # of a few pairs the line jumps
    chart.line(points[min(steady, len(points) - 1) :], "main")
    threshold_b = (RELIABILITY_BINS - 1 - np.arange(len(said_b)))[there_b] / RELIABILITY_BINS
    for mark in _MARKS:
        at = int(np.searchsorted(-threshold_b, -mark - 1e-9, side="right")) - 1
        if at >= steady:
            said = f"from {mark:.0%} on: precision {precision_b[at]:.1%}, recall {recall_b[at]:.1%}"
            chart.dot(*points[at], "main", said, size=3)
            chart.text(*points[at], f"{mark:.0%}", 6, -5)
    for how, found in decisions.items():
        said = f"{how}: precision {found['oP']:.1%}, recall {found['oR']:.1%}"
        chart.dot(found["oR"], found["oP"], f"decision {how}", said, _SHAPES[how], 6)
    return chart.svg()


def shape_key(how: str) -> str:
    """The mark of a decision, for a legend."""
    drawn = {
        "circle": '<circle cx="8" cy="8" r="5"/>',
        "square": '<path d="M3 3h10v10H3z"/>',
        "triangle": '<path d="M8 2l6 11H2z"/>',
    }[_SHAPES[how]]
    return (
        '<svg class="key" viewBox="0 0 16 16" aria-hidden="true">'
        f'<g class="decision {how}">{drawn}</g></svg>'
    )


def loss_chart(loss: Line) -> str:
    steps, values = [step for step, _ in loss], [value for _, value in loss]
    chart = Chart(
        "loss over the steps of training",
        Axis.counted("step", [0, *steps]),
        Axis.positive("loss", values),
    )
    _course(chart, loss, "main", "loss")
    return chart.svg()


def quality_chart(curves: Curves) -> str:
    """F1 and oF1 of the rows that were scored while training, and of the floor."""
    steps = [step for line in curves.quality.values() for step, _ in line]
    most = max(value for line in curves.quality.values() for _, value in line)
    chart = Chart(
        "F1 and oF1 over the steps of training",
        Axis.counted("step", [0, *steps]),
        Axis.share("F1 and oF1", most * 1.05),
    )
    heights: list[float] = []
    for key, line in sorted(curves.quality.items(), key=lambda item: -item[1][-1][1]):
        name = key.removeprefix("floor ")
        kind = f"{'floor' if name != key else 'main'} {name}"
        _course(chart, line, kind, key)
        # Names stand at the end of their lines, one below the other.
        _, top = chart.place(*line[-1])
        place = max([top, *(height + 15 for height in heights)])
        heights.append(place)
        chart.text(*line[-1], key, -4, place - top - 7, "end")
    return chart.svg()


def _course(chart: Chart, line: Line, kind: str, name: str) -> None:
    chart.line(line, kind)
    if len(line) <= 60:
        for step, value in line:
            chart.dot(step, value, kind, f"step {step:,}: {name} {value:.3f}", size=3)


def tag_map(facts: Facts) -> str:
    """Tags by their vectors: the larger the more frequent, the darker the better found."""
    counts_n = facts.vocabulary.counts[[place.tag for place in facts.tag_map]]
    precision_T = facts.evaluation.top.average_precision_T()
    order = np.argsort(-counts_n, kind="stable").tolist()
    span = np.log1p(counts_n.max()) - np.log1p(counts_n.min()) or 1.0
    weight_n = (np.log1p(counts_n) - np.log1p(counts_n.min())) / span
    places = [facts.tag_map[n] for n in order]
    names = [facts.vocabulary.names[place.tag] for place in places]
    radii = [2.5 + 4.5 * weight_n[n] for n in order]
    wide, high = _MAP_WIDTH - 2 * _MAP_EDGE, _MAP_HEIGHT - 2 * _MAP_EDGE
    place_n2 = np.array([[_MAP_EDGE + p.x * wide, _MAP_EDGE + p.y * high] for p in places])
    sizes = [11.5 + 5 * weight_n[n] for n in order]
    named = labels(place_n2, names, sizes, radii, _MAP_WIDTH, _MAP_HEIGHT)
    dots, texts = [], []
    for place, name, (x, y), radius, label in zip(
        places, names, place_n2, radii, named, strict=True
    ):
        ap = float("nan") if precision_T is None else float(precision_T[place.tag])
        kind = "q-" if math.isnan(ap) else f"q{min(4, int(ap * 5))}"
        found = "not in this store" if math.isnan(ap) else f"average precision {ap:.2f}"
        if precision_T is None:
            found = "average precision not computed"
        count = facts.vocabulary.counts[place.tag]
        said = escape(f"{name}: {count:,} training images, {found}")
        dots.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{said}</title></circle>"
        )
        if label is not None:
            texts.append(
                f'<text x="{label.x:.1f}" y="{label.y:.1f}" font-size="{label.size:.1f}">'
                f"{escape(shortened(name))}</text>"
            )
    return (
        f'<svg class="map" viewBox="0 0 {_MAP_WIDTH} {_MAP_HEIGHT}" role="img" '
        f'aria-label="map of {len(places)} tags">{"".join(dots)}{"".join(texts)}</svg>'
    )

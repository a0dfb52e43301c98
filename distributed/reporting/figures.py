"""The headline of a report, and the table of its figures by decision."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from distributed.reporting.facts import Facts, Metrics
from distributed.runtime.progress import duration
from drel_core.scoring.floor import BELOW, beats_floor, first_check

NAMES = {
    "drel": "DREL",
    "wsabie": "WSABIE",
    "knn": "kNN",
    "svm": "one-vs-all SVM",
    "popularity": "Popularity",
    "cnn-softmax": "network, softmax",
    "cnn-hinge": "network, hinge",
    "cnn-warp": "network, WARP",
}
"""Of methods, for people."""
FLOOR = "popularity floor"
_DECISIONS = {
    "top": "top: the {k} most probable tags",
    "macro": "macro: the {k} tags that maximise expected macro F1",
    "threshold": "threshold: all tags that pass their tag’s cut",
}
_COLUMNS = (
    ("P@1", "first tag right"),
    ("mAP", "mAP"),
    ("oP", "oP"),
    ("oR", "oR"),
    ("oF1", "oF1"),
    ("F1", "F1"),
    ("N+", "N+"),
    ("tags_per_image", "tags a picture"),
)
_MEANINGS = (
    ("first tag right", "share of pictures whose first tag is true (P@1)"),
    (
        "mAP",
        "how well each tag puts the pictures that show it first; mean over tags. No decision changes it",
    ),
    ("oP, oR", "share of said tags that are right; share of true tags that are said"),
    ("oF1", "oP and oR in one number: frequent tags count most"),
    (
        "F1",
        "precision and recall of each tag, averaged over tags: rare tags count as much as frequent ones",
    ),
    ("N+", "tags that were found at least once"),
    (FLOOR, "what naming the most frequent tags for every picture would give"),
)


def headline(facts: Facts) -> str:
    """What one reads first: a sentence, what was scored, and the main figures beside the floor."""
    metrics, floor = facts.metrics, facts.metrics["floor"]
    images = f"{metrics['images']:,} picture{'s' * (metrics['images'] != 1)}"
    return (
        f'<header><p class="kicker">DREL report</p><h1>{escape(facts.method)} names the right tag first for '
        f"{metrics['P@1']:.0%} of {images}</h1>"
        f'<p class="lead">Naming the most frequent tag would be right for {floor["P@1"]:.0%}. '
        f"{_trained(facts)} It was scored on <b>{escape(facts.data)}</b>: {metrics['tags_scored']:,} of its "
        f"{metrics['tags']:,} tags occur there.</p>{_verdict(facts)}{_tiles(facts)}</header>"
    )


def _trained(facts: Facts) -> str:
    train, images = facts.info.train, facts.info.images
    said = "The model was trained"
    if images:
        said += f" on <b>{images:,} pictures</b>"
    if isinstance(seconds := train.get("seconds"), int | float) and seconds:
        spent = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
        said += f" in {spent}"
    return f"{said}."


def _verdict(facts: Facts) -> str:
    if facts.info.method == "popularity" or beats_floor(facts.metrics):
        return ""
    check = first_check(facts.k, facts.metrics["tags"])
    return f'<p class="warning"><b>{BELOW[0].upper()}{BELOW[1:]} on these images.</b> {escape(check)}.</p>'


def _tiles(facts: Facts) -> str:
    metrics, floor = facts.metrics, facts.metrics["floor"]
    first = f"{metrics['P@1']:.0%}"
    tiles = [_tile("First tag right", first, metrics["P@1"], floor["P@1"], f"{floor['P@1']:.0%}")]
    for key, title in (("oF1", "oF1"), ("F1", "F1 over tags"), ("mAP", "mAP")):
        if metrics[key] is not None:
            said, low = f"{metrics[key]:.3f}", f"{floor[key]:.3f}"
            tiles.append(_tile(title, said, metrics[key], floor[key], low))
    scored = max(1, metrics["tags_scored"])
    tiles.append(
        _tile(
            "Tags found (N+)",
            f"{metrics['N+']:,} <small>of {metrics['tags_scored']:,}</small>",
            metrics["N+"] / scored,
            floor["N+"] / scored,
            f"{floor['N+']:,}",
        )
    )
    if facts.has_probabilities:
        tiles.append(
            f'<div class="tile"><span>Probabilities off by</span><b>{metrics["ece"]:.3f}</b>'
            "<span>on average, of those above .05</span></div>"
        )
    return (
        f'<div class="tiles">{"".join(tiles)}</div><p class="quiet">The tags are chosen by '
        f"<b>{facts.decide}</b>; the mark in a bar is the popularity floor.</p>"
    )


def _tile(title: str, value: str, share: float, low: float, floor: str) -> str:
    return (
        f'<div class="tile"><span>{title}</span><b>{value}</b><span class="bar"><i style="width:{share:.1%}">'
        f'</i><u style="left:min({low:.1%}, 100% - 2px)"></u></span><span>floor {floor}</span></div>'
    )


def figures(facts: Facts) -> str:
    """The table: of each decision the floor, other methods and this one."""
    decisions = [how for how in _DECISIONS if how in facts.metrics["decisions"]]
    groups = "".join(_group(facts, how) for how in decisions)
    head = "".join(f"<th>{title}</th>" for _, title in _COLUMNS)
    meanings = "".join(f"<dt>{term}</dt><dd>{said}</dd>" for term, said in _MEANINGS)
    return (
        '<section class="panel" id="figures"><h2>Figures</h2><p class="quiet">The best of each column is '
        f'bold.</p><div class="scroll"><table class="wide"><thead><tr><th>method</th>{head}</tr></thead>'
        f"{groups}</table></div><dl>{meanings}</dl></section>"
    )


def _group(facts: Facts, how: str) -> str:
    """The rows of a decision. The floor names the same tags whatever the decision."""
    rows: list[tuple[str, Metrics, str]] = [
        (FLOOR, {"tags_per_image": facts.k, **facts.metrics["floor"]}, "")
    ]
    for name, metrics in facts.others:
        if how in metrics.get("decisions", {}):
            rows.append((name, _of(metrics, how), ""))
    rows.append((facts.method, _of(facts.metrics, how), "own"))
    best = {
        key: max((value for _, row, _ in rows if (value := row.get(key)) is not None), default=None)
        for key, _ in _COLUMNS[:-1]
    }
    lines = []
    for name, row, kind in rows:
        cells = "".join(_cell(key, row.get(key), best.get(key)) for key, _ in _COLUMNS)
        lines.append(f'<tr class="{kind}"><td>{escape(name)}</td>{cells}</tr>')
    title = f"<span>{_DECISIONS[how].format(k=facts.k)}</span>"
    return f'<tbody><tr><th colspan="{len(_COLUMNS) + 1}">{title}</th></tr>{"".join(lines)}</tbody>'


def _of(metrics: Metrics, how: str) -> Mapping[str, Any]:
    return {"mAP": metrics.get("mAP"), **metrics["decisions"][how]}


def _cell(key: str, value: Any, best: Any) -> str:
    if value is None:
        return "<td>–</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    text = text if key != "tags_per_image" else f"{value:g}"
    return f"<td><b>{text}</b></td>" if value == best else f"<td>{text}</td>"

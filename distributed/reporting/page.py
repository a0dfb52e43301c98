"""A report as one HTML file that needs nothing else: no script, no network, pictures inside.

Every text that comes from a store, a model or a file is escaped; beside that, the page forbids scripts and
everything from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from distributed.inference.evaluate import FREQUENCIES
from distributed.reporting import charts
from distributed.reporting.cards import breakable, doubt_sheets, sample_sheet
from distributed.reporting.facts import Facts, TagRow, percent, tag_tables
from distributed.reporting.figures import figures, headline
from drel_core.scoring.reliability import expected_calibration_error, reliability_table
from drel_core.version import written_by

_STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(facts: Facts) -> str:
    """The whole file."""
    parts = [
        headline(facts),
        "<main>",
        sample_sheet(facts),
        figures(facts),
        doubt_sheets(facts),
        _probabilities(facts),
        _training(facts),
        _map(facts),
        _tags(facts),
        "</main>",
        _end(facts),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<link rel="icon" href="data:,"><title>{escape(facts.method)} on {escape(facts.data)}</title>'
        f"<style>{_STYLE.read_text('utf-8')}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _probabilities(facts: Facts) -> str:
    if not facts.has_probabilities:
        return ""
    metrics = facts.metrics
    table, whole_b2 = metrics["reliability"], facts.evaluation.reliability_cb2.sum(0)
    if not table:
        return ""
    relevant = int(facts.evaluation.top.relevant_T.sum())
    keys = "".join(
        f"<li>{charts.shape_key(how)} {how}: {found['tags_per_image']:g} tags a picture</li>"
        for how, found in metrics["decisions"].items()
    )
    curve = charts.precision_recall_chart(whole_b2, relevant, metrics["decisions"])
    return (
        '<section class="panel" id="probabilities"><h2>Can the probabilities be trusted?</h2>'
        f"<p>Probabilities above .05 are off by {metrics['ece']:.3f} on average (expected calibration "
        "error). Points on the dashed line are right as often as they say; below it the model is too "
        "sure.</p>"
        f'<div class="charts"><figure>{charts.reliability_chart(table)}{charts.counts_chart(table)}'
        "<figcaption>Above: how often tags are right, with 95% intervals. Below: how many tags each tenth "
        f"has.</figcaption></figure><div><figure>{curve}"
        "<figcaption>The line: all tags from a probability on. Precision is the share of said tags that are "
        f'right, recall the share of true tags that are said. The decisions: <ul class="legend">{keys}</ul>'
        f"</figcaption></figure>{_by_frequency(facts)}</div></div></section>"
    )


def _by_frequency(facts: Facts) -> str:
    """How far probabilities of rare and frequent tags can be trusted."""
    low = [0, *FREQUENCIES]
    names = [f"{a:,} to {b - 1:,}" for a, b in zip(low, FREQUENCIES, strict=False)]
    names.append(f"{FREQUENCIES[-1]:,} and more")
    rows = []
    for name, table_b2 in zip(names, facts.evaluation.reliability_cb2, strict=True):
        table = reliability_table(table_b2)
        pairs = sum(row["pairs"] for row in table)
        if not pairs:
            continue
        said, right = (
            sum(row["pairs"] * row[key] for row in table) / pairs
            for key in ("probability", "right")
        )
        rows.append(
            f"<tr><td>{name}</td><td>{pairs:,.0f}</td><td>{said:.1%}</td><td>{right:.1%}</td>"
            f"<td>{expected_calibration_error(table_b2):.3f}</td></tr>"
        )
    return (
        '<h3>By frequency of the tag</h3><div class="scroll"><table><thead><tr><th>training images with the '
        "tag</th><th>tags said above 5%</th><th>probability</th><th>right</th><th>off by</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _training(facts: Facts) -> str:
    curves = facts.curves
    drawn = []
    if len(curves.loss) > 1:
        drawn.append(
            f"<figure>{charts.loss_chart(curves.loss)}<figcaption>Loss.</figcaption></figure>"
        )
    if curves.quality:
        kind = (facts.info.train.get("watch") or {}).get(
            "kind", "rows that were scored while training"
        )
        drawn.append(
            f"<figure>{charts.quality_chart(curves)}<figcaption>Quality on {escape(str(kind))}, top "
            f"{facts.k} tags; dotted: the popularity floor.</figcaption></figure>"
        )
    if not drawn:
        return ""
    return (
        '<section class="panel" id="training"><h2>How it learned</h2>'
        f'<div class="charts">{"".join(drawn)}</div></section>'
    )


def _map(facts: Facts) -> str:
    if not facts.tag_map:
        return ""
    keys = "".join(
        f'<li><span class="swatch q{n}"></span> {n / 5:.1f} to {(n + 1) / 5:.1f}</li>'
        for n in range(5)
    )
    shown, total = len(facts.tag_map), len(facts.vocabulary)
    which = (
        f"All {total:,} tags"
        if shown == total
        else f"The {shown:,} most frequent of {total:,} tags"
    )
    return (
        '<section class="panel" id="map"><h2>Map of the tags</h2>'
        f"<p>{which}, near each other where the model finds them alike. A larger dot is a more frequent tag; "
        "a stronger colour is one that is found better. Names that have no room show when the dot is pointed "
        f'at.</p><ul class="legend"><li>average precision:</li>{keys}'
        '<li><span class="swatch q-"></span> not in this store</li></ul>'
        f'<div class="scroll">{charts.tag_map(facts)}</div></section>'
    )


def _tags(facts: Facts) -> str:
    tables = tag_tables(facts.vocabulary, facts.evaluation)
    if not tables.frequent:
        return ""
    ranked = "average precision" if tables.frequent[0].ap is not None else "F1"
    named = f"on at least {tables.least} test images" if tables.least > 1 else ""
    return (
        '<section class="panel" id="tags"><h2>Tags</h2>'
        f"<p>Best and worst by {ranked}, of tags {named}. Precision and recall are of the {facts.k} most "
        'probable tags.</p><div class="three">'
        f"{_tag_table('Most frequent', tables.frequent)}{_tag_table('Found best', tables.best)}"
        f"{_tag_table('Found worst', tables.worst)}</div></section>"
    )


def _tag_table(title: str, rows: Sequence[TagRow]) -> str:
    lines = []
    for row in rows:
        ap = "–" if row.ap is None else f"{row.ap:.2f}"
        lines.append(
            f'<tr><td class="name">{breakable(row.name)}</td><td>{ap}</td>'
            f"<td>{escape(percent_or_none(row.precision))}</td><td>{escape(percent_or_none(row.recall))}</td><td>{row.tested:,}</td><td>{row.trained:,}</td></tr>"
        )
    return (
        f'<div><h3>{title}</h3><div class="scroll"><table class="wide"><thead><tr><th>tag</th>'
        '<th title="average precision">AP</th><th title="precision">prec.</th><th>recall</th>'
        '<th title="test images with the tag">test</th><th title="training images with the tag">train</th>'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def percent_or_none(share: float) -> str:
    return "0%" if share == 0 else percent(share)


def _end(facts: Facts) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in facts.notes)
    said = f'<b>What this report leaves out</b><ul class="notes">{notes}</ul>' if notes else ""
    info = facts.info
    return (
        f"<footer>{said}<p>Model {escape(info.version)} of {escape(facts.model)}, trained "
        f"{escape(info.trained_at)}, written by {escape(info.written_by or 'an earlier version')}. "
        f"Data: {escape(facts.data)}. This page was written by {escape(written_by())}; it needs no "
        "network.</p></footer>"
    )

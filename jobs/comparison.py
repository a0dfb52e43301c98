"""What jobs.compare writes: results.json, table.md and table.png."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, get_args

import matplotlib

from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder
from drel_core.decision.decider import Decide

matplotlib.use("agg")
QUALITY = ("mP", "mR", "F1", "N+", "mAP", "oF1", "P@1", "ece")
SCORES = ("mAP", "ece")
"""Figures of scores, which no decision changes."""
DECISIONS: tuple[Decide, ...] = get_args(Decide)
TITLES = {
    "top": "the {k} most probable tags",
    "macro": "the {k} tags that maximise expected macro F1",
    "threshold": "all tags that pass their cut",
}
COMPLEXITY = {"knn": "O(N)", "popularity": "O(1)", "upper bound": ""}
"""Of annotating an image, by method; all others score each of T tags once, O(T), or beside it compare the
image with the R landmarks of a kernel, O(R + T)."""


@dataclass
class Entry:
    """A row of the tables.

    Attributes:
        name: METHOD or METHOD:PRESET.
        runs: metrics of each seed.
        failed: why it has none or too few; empty when all went well.
        skipped: why it was left out: it cannot be done with this store on this machine.
    """

    name: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""
    skipped: str = ""

    @property
    def method(self) -> str:
        return self.name.partition(":")[0]

    @property
    def label(self) -> str:
        if self.name == "popularity":
            return "popularity floor"
        method, _, preset = self.name.partition(":")
        return f"{method} {PurePath(preset).stem}".strip()  # a preset may be a file

    @property
    def has_probabilities(self) -> bool:
        """It can decide otherwise than by ``top``."""
        return bool(self.values("decisions", "macro", "F1"))

    @property
    def complexity(self) -> str:
        usual = "O(R + T)" if any(run.get("has_kernel") for run in self.runs) else "O(T)"
        return COMPLEXITY.get(self.method, usual)

    def values(self, *path: str) -> list[float]:
        """A figure of each run, where it has it."""
        out = []
        for run in self.runs:
            value: Any = run
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                out.append(float(value))
        return out

    def figures(self, decide: Decide, key: str) -> list[float]:
        """A figure of quality of each run, by a decision. What has no decisions has the same ones by all."""
        if key in SCORES or not self.values("decisions", decide, key):
            return self.values(key)
        return self.values("decisions", decide, key)

    def summary(self, decide: Decide) -> dict[str, dict[str, float]]:
        """Mean and spread of all figures of quality."""
        found = {key: self.figures(decide, key) for key in QUALITY}
        return {
            "mean": {key: statistics.fmean(of) for key, of in found.items() if of},
            "spread": {key: statistics.stdev(of) for key, of in found.items() if len(of) > 1},
        }

    def cell(self, form: str, *path: str) -> str:
        """Mean and, of several runs, the standard deviation."""
        return _mean(self.values(*path), form)


def _mean(values: list[float], form: str) -> str:
    if not values:
        return ""
    text = format(statistics.fmean(values), form)
    return text if len(values) < 2 else f"{text} ±{format(statistics.stdev(values), form)}"


def write_comparison(
    out: Folder, entries: list[Entry], train: str, test: str, k: int, vocabulary: str = ""
) -> None:
    """Write the three files. ``entries`` begin with the floor and end with the bound; ``vocabulary`` is the
    file whose rules all went by."""
    write_json(
        out.file("results.json"),
        {
            "train": train,
            "test": test,
            "k": k,
            "vocabulary": vocabulary,
            "methods": [
                {
                    "name": e.name,
                    "failed": e.failed,
                    "skipped": e.skipped,
                    "complexity": e.complexity,
                    "runs": e.runs,
                    **e.summary("top"),
                    "decisions": {
                        decide: e.summary(decide) for decide in DECISIONS if e.has_probabilities
                    },
                }
                for e in entries
            ],
        },
    )
    write_text(out.file("table.md"), markdown(entries, train, test, k, vocabulary))
    with out.writing("table.png") as path:
        picture(entries, path)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def markdown(entries: list[Entry], train: str, test: str, k: int, vocabulary: str = "") -> str:
    """The tables as Markdown: quality by each decision, cost, and quality by how often tags occur in
    training."""
    first = next(run for entry in entries for run in entry.runs)
    runs = max(len(entry.runs) for entry in entries)
    cost = [
        [
            entry.label,
            entry.cell(",.0f", "train", "seconds"),
            entry.cell(",.0f", "score", "topk_images_per_second"),
            entry.complexity,
            _size(entry),
        ]
        for entry in entries
        if entry.runs and "score" in entry.runs[0]
    ]
    lines = [
        f"# Methods compared on {Path(test).parent.name}/{Path(test).name}",
        "",
        f"Trained on `{train}`, scored on `{test}`: {first['images']} images, "
        f"{first['tags_scored']} tags scored, top {k} tags an image"
        + (f", mean of {runs} seeds ± standard deviation." if runs > 1 else ".")
        + (f" Tags by the rules of `{vocabulary}`." if vocabulary else ""),
        "",
        *_quality(entries, k),
        "",
        *_table(["method", "training, s", "top-k, images/s", "annotating", "model, MB"], cost),
    ]
    lines += ["", "F1 and N+ of tags by their training images:", "", *_bands(entries)]
    return "\n".join(lines) + "\n"


def _quality(entries: list[Entry], k: int) -> list[str]:
    """A table for each decision: all methods by ``top``, the others beside floor and bound where some method
    has probabilities."""
    lines = [f"Decision `top`: {TITLES['top'].format(k=k)}.", ""]
    lines += _table(["method", *QUALITY], [_quality_row(entry, "top") for entry in entries])
    able = [entry for entry in entries[1:-1] if entry.has_probabilities and not entry.failed]
    if not able:
        return lines
    for decide in DECISIONS[1:]:
        lines += ["", f"Decision `{decide}`: {TITLES[decide].format(k=k)}.", ""]
        rows = []
        for entry in (entries[0], *able, entries[-1]):
            said = _mean(entry.values("decisions", decide, "tags_per_image"), ".1f")
            rows.append([*_quality_row(entry, decide), said])
        lines += _table(["method", *QUALITY, "tags an image"], rows)
    return lines


def _quality_row(entry: Entry, decide: Decide) -> list[str]:
    if said := entry.failed or entry.skipped:
        why = f"{'failed' if entry.failed else 'left out'}: {said}"
        return [entry.label, why, *[""] * (len(QUALITY) - 1)]
    forms = [".0f" if key == "N+" else ".3f" for key in QUALITY]
    return [
        entry.label,
        *(
            _mean(entry.figures(decide, key), form)
            for key, form in zip(QUALITY, forms, strict=True)
        ),
    ]


def _size(entry: Entry) -> str:
    values = entry.values("model_bytes")
    return f"{statistics.fmean(values) / 1e6:,.1f}" if values else ""


def _bands(entries: list[Entry]) -> list[str]:
    good = [entry for entry in entries if entry.runs and "bands" in entry.runs[0]]
    names = list(good[0].runs[0]["bands"])
    head = ["method"]
    for name in names:
        band = good[0].runs[0]["bands"][name]
        low, high = band["training_images"]
        head += [f"{name} ({low} to {high}) F1", f"N+ of {band['tags']}"]
    rows = []
    for entry in good:
        row = [entry.label]
        for name in names:
            row += [entry.cell(".3f", "bands", name, "F1"), entry.cell(".0f", "bands", name, "N+")]
        rows.append(row)
    return _table(head, rows)


def picture(entries: list[Entry], path: Path) -> None:
    """F1 against scoring speed, a point a method; floor and bound as lines. A panel for each decision that
    some method can make."""
    from matplotlib import pyplot

    decisions = DECISIONS if any(entry.has_probabilities for entry in entries) else DECISIONS[:1]
    figure, panels = pyplot.subplots(
        1,
        len(decisions),
        figsize=(7 * len(decisions), 4.5),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, decide in zip(panels[0], decisions, strict=True):
        for entry in entries:
            if entry is entries[0] or entry is entries[-1]:
                _line(axes, entry)
            elif decide == "top" or entry.has_probabilities:
                _point(axes, entry, decide)
        axes.set(xscale="log", xlabel="images annotated a second (this machine)", title=decide)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.4)  # room for the label of the fastest
    panels[0, 0].set_ylabel("F1 over tags")
    panels[0, 0].set_ylim(bottom=0)
    figure.savefig(path, format="png", dpi=130)
    pyplot.close(figure)


def _line(axes: Any, entry: Entry) -> None:
    height = statistics.fmean(entry.values("F1"))
    axes.axhline(height, color="grey", linewidth=1, linestyle=":")
    axes.annotate(
        entry.label,
        (0.99, height),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="grey",
        fontsize=8,
    )


def _point(axes: Any, entry: Entry, decide: Decide) -> None:
    quality, speed = entry.figures(decide, "F1"), entry.values("score", "topk_images_per_second")
    if not quality or not speed:
        return
    height = statistics.fmean(quality)
    spread = statistics.stdev(quality) if len(quality) > 1 else 0.0
    axes.errorbar(statistics.fmean(speed), height, yerr=spread, marker="o", capsize=3)
    axes.annotate(
        entry.label,
        (statistics.fmean(speed), height),
        xytext=(6, 4),
        textcoords="offset points",
        fontsize=9,
    )

"""What jobs.compare writes: results.json, table.md and table.png."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder

matplotlib.use("agg")
QUALITY = ("mP", "mR", "F1", "N+", "mAP", "oF1")
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
        return {"popularity": "popularity floor"}.get(self.name, self.name.replace(":", " "))

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

    def cell(self, form: str, *path: str) -> str:
        """Mean and, of several runs, the standard deviation."""
        values = self.values(*path)
        if not values:
            return ""
        text = format(statistics.fmean(values), form)
        return text if len(values) < 2 else f"{text} ±{format(statistics.stdev(values), form)}"


def write_comparison(out: Folder, entries: list[Entry], train: str, test: str, k: int) -> None:
    """Write the three files. ``entries`` begin with the floor and end with the bound."""
    write_json(
        out.file("results.json"),
        {
            "train": train,
            "test": test,
            "k": k,
            "methods": [
                {
                    "name": e.name,
                    "failed": e.failed,
                    "skipped": e.skipped,
                    "complexity": e.complexity,
                    "runs": e.runs,
                    "mean": {
                        key: statistics.fmean(e.values(key)) for key in QUALITY if e.values(key)
                    },
                    "spread": {
                        key: statistics.stdev(e.values(key))
                        for key in QUALITY
                        if len(e.values(key)) > 1
                    },
                }
                for e in entries
            ],
        },
    )
    write_text(out.file("table.md"), markdown(entries, train, test, k))
    with out.writing("table.png") as path:
        picture(entries, path)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def markdown(entries: list[Entry], train: str, test: str, k: int) -> str:
    """The tables as Markdown: quality, cost, and quality by how often tags occur in training."""
    first = next(run for entry in entries for run in entry.runs)
    runs = max(len(entry.runs) for entry in entries)
    quality = []
    for entry in entries:
        if said := entry.failed or entry.skipped:
            why = f"{'failed' if entry.failed else 'left out'}: {said}"
            quality.append([entry.label, why, *[""] * (len(QUALITY) - 1)])
            continue
        forms = [".0f" if key == "N+" else ".3f" for key in QUALITY]
        cells = [entry.cell(form, key) for key, form in zip(QUALITY, forms, strict=True)]
        quality.append([entry.label, *cells])
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
        + (f", mean of {runs} seeds ± standard deviation." if runs > 1 else "."),
        "",
        *_table(["method", *QUALITY], quality),
        "",
        *_table(["method", "training, s", "top-k, images/s", "annotating", "model, MB"], cost),
    ]
    lines += ["", "F1 and N+ of tags by their training images:", "", *_bands(entries)]
    return "\n".join(lines) + "\n"


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
    """F1 against scoring speed, a point a method; floor and bound as lines."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for entry in entries:
        quality, speed = entry.values("F1"), entry.values("score", "topk_images_per_second")
        if not quality:
            continue
        height = statistics.fmean(quality)
        if entry is entries[0] or entry is entries[-1]:
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
        elif speed:
            spread = statistics.stdev(quality) if len(quality) > 1 else 0.0
            axes.errorbar(statistics.fmean(speed), height, yerr=spread, marker="o", capsize=3)
            axes.annotate(
                entry.label,
                (statistics.fmean(speed), height),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=9,
            )
    axes.set(xscale="log", xlabel="images annotated a second (this machine)", ylabel="F1 over tags")
    axes.set_ylim(bottom=0)
    figure.savefig(path, format="png", dpi=130)
    pyplot.close(figure)

"""The report of a new feature store: one page of text and one picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.feature_store import feature_matrix, one_chunk
from distributed.ingest.parts import part_schema, read_first_group, read_part
from distributed.ingest.sources.base import IMAGE_ID, TAGS, by_reason
from distributed.runtime.progress import counted
from distributed.storage.folder import Folder

matplotlib.use("agg")
_SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class Overview:
    """Figures of a store.

    Attributes:
        rows: of each part.
        dims: D of each features column.
        vocabulary: (tag, count).
        tags_per_image: number of images with 0, 1, 2, … tags.
        mean_D, std_D: of up to 20,000 training rows.
        twins: (test image_id, train image_id) of pictures with an equal difference hash; at most 20.
        num_twins: of test images with a twin among the training images; None without pictures.
        gone: rejected rows.
    """

    rows: dict[str, int]
    dims: dict[str, int]
    vocabulary: pa.Table
    tags_per_image: np.ndarray
    mean_D: np.ndarray
    std_D: np.ndarray
    twins: list[tuple[str, str]]
    num_twins: int | None
    gone: pa.Table

    @property
    def said_dims(self) -> str:
        """D, and of several features columns that of each."""
        each = ", ".join(f"{name} {dim}" for name, dim in self.dims.items())
        return f"D = {sum(self.dims.values())}" + (f" ({each})" if len(self.dims) > 1 else "")

    @staticmethod
    def of(
        store: Folder,
        files: dict[str, list[dict[str, Any]]],
        vocabulary: pa.Table,
        gone: pa.Table,
        hash_name: str,
        dims: dict[str, int],
    ) -> Overview:
        """Read what the page needs: tags and hashes of all rows, features of a sample."""
        counts = np.zeros(1, dtype=np.int64)
        hashes: dict[str, list[pa.Table]] = {"train": [], "test": []}
        total = square = np.zeros(0)
        seen = 0
        for split, entries in files.items():
            for entry in entries:
                path = store.file(entry["name"])
                names = part_schema(path).names
                wanted = [IMAGE_ID, TAGS] + ([hash_name] if hash_name in names else [])
                table = read_part(path, wanted)
                found = np.bincount(pc.list_value_length(table.column(TAGS)).to_numpy())
                size = max(len(counts), len(found))
                counts = np.pad(counts, (0, size - len(counts))) + np.pad(
                    found, (0, size - len(found))
                )
                if hash_name in names:
                    hashes[split].append(table.select([IMAGE_ID, hash_name]))
                if split == "train" and seen < _SAMPLE_ROWS:
                    group = read_first_group(path, list(dims))
                    stored = [one_chunk(group.column(column)) for column in dims]
                    value = feature_matrix(stored).astype(np.float64)
                    if not seen:
                        total = square = np.zeros(value.shape[1])
                    total, square = total + value.sum(0), square + (value**2).sum(0)
                    seen += len(value)
        mean = total / seen
        twins, number = _twins(hashes, hash_name)
        return Overview(
            rows={
                split: sum(entry["rows"] for entry in entries) for split, entries in files.items()
            },
            dims=dims,
            vocabulary=vocabulary,
            tags_per_image=counts,
            mean_D=mean,
            std_D=np.sqrt(np.maximum(square / seen - mean**2, 0)),
            twins=twins,
            num_twins=number,
            gone=gone,
        )


def _twins(
    hashes: dict[str, list[pa.Table]], hash_name: str
) -> tuple[list[tuple[str, str]], int | None]:
    if not hashes["train"] or not hashes["test"]:
        return [], None
    train, test = pa.concat_tables(hashes["train"]), pa.concat_tables(hashes["test"])
    place = pc.index_in(
        test.column(hash_name), value_set=train.column(hash_name).combine_chunks()
    ).to_numpy(zero_copy_only=False)
    hit = np.flatnonzero(~np.isnan(place.astype(np.float64)))
    pairs = [
        (test.column(IMAGE_ID)[int(i)].as_py(), train.column(IMAGE_ID)[int(place[i])].as_py())
        for i in hit[:20]
    ]
    return pairs, len(hit)


def write_report(store: Folder, seen: Overview) -> None:
    """``report.md`` and ``report.png``."""
    store.write("report.png", _picture(seen))
    store.write("report.md", ("\n".join(_page(store.name, seen)) + "\n").encode())


def _page(name: str, seen: Overview) -> list[str]:
    count = seen.vocabulary.column("count").to_numpy()
    order = np.argsort(-count, kind="stable")
    tag = seen.vocabulary.column("tag").to_pylist()
    images = sum(seen.rows.values())
    per_image = (seen.tags_per_image * np.arange(len(seen.tags_per_image))).sum() / max(images, 1)
    lines = [
        "# Feature store",
        "",
        f"{seen.rows['train']} training and {seen.rows['test']} test images, {seen.said_dims}, "
        f"{len(tag)} tags, {per_image:.1f} tags an image.",
        "",
        "![tags, tags per image, features](report.png)",
        "",
        "## Tags",
        "",
        f"Most frequent: {', '.join(f'{tag[i]} ({count[i]})' for i in order[:15])}.",
        f"{int((count == 1).sum())} tags have one training image, "
        f"{int((count < 10).sum())} fewer than 10.",
        "",
        "## Features",
        "",
        *_spread(seen),
        "",
        "## Train and test",
        "",
    ]
    if seen.num_twins is None:
        lines.append("No image is in both by its id. Pictures were not compared.")
    else:
        lines.append(
            f"No image is in both by its id. {counted(seen.num_twins, 'test picture')} "
            f"{'looks' if seen.num_twins == 1 else 'look'} like a training picture (equal difference hash)"
            + (":" if seen.twins else ".")
        )
        lines += ["", "| test | train |", "|---|---|"] if seen.twins else []
        lines += [f"| {_cell(a)} | {_cell(b)} |" for a, b in seen.twins]
    lines += ["", "## Rejected rows", ""]
    if not len(seen.gone):
        return [*lines, "None."]
    lines += [f"{len(seen.gone)}, all in rejected.parquet.", "", "| reason | rows | for example |"]
    lines.append("|---|---|---|")
    for count, first in by_reason(seen.gone)[:30]:
        example = f"{first[IMAGE_ID] or 'no id'}: {first['where']}"
        lines.append(f"| {_cell(first['reason'])} | {count} | {_cell(example)} |")
    return lines


def _spread(seen: Overview) -> list[str]:
    """A line on the standard deviations of each features column."""
    ends = np.cumsum(list(seen.dims.values()))[:-1]
    lines = []
    for name, std_D in zip(seen.dims, np.split(seen.std_D, ends), strict=True):
        constant = int((std_D == 0).sum())
        said = f"{name}: standard" if len(seen.dims) > 1 else "Standard"
        lines += [
            f"{said} deviations (of up to 20,000 training rows) from {std_D.min():.4g} to "
            f"{std_D.max():.4g}; {constant} features are constant.",
            "",
        ]
    return lines[:-1]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]


def _picture(seen: Overview) -> bytes:
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    count = np.sort(seen.vocabulary.column("count").to_numpy())[::-1]
    left.loglog(np.arange(1, len(count) + 1), count, color="#2a6f97")
    left.set(title=f"{len(count)} tags", xlabel="rank of the tag", ylabel="training images")
    top = int(min(len(seen.tags_per_image), 40))
    middle.bar(np.arange(top), seen.tags_per_image[:top], color="#2a6f97")
    middle.set(title=f"{sum(seen.rows.values())} images", xlabel="tags", ylabel="images")
    right.hist(seen.std_D, bins=50, color="#2a6f97")
    right.set(title=seen.said_dims, xlabel="standard deviation of a feature", ylabel="features")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return buffer.getvalue()

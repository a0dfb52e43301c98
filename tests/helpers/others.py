"""Data sets as other tools wrote them (tests/data/others), and the same pictures as COCO and Open Images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.helpers.commands import ROOT

OTHERS = ROOT / "tests" / "data" / "others"
ROWS = 24
NAMES = ["blue", "green", "red", "white"]
TAGS = [[NAMES[r % 4], NAMES[(r + 1) % 4]] if r % 2 else [NAMES[r % 4]] for r in range(ROWS)]
IDS = [f"{row:03d}" for row in range(ROWS)]


def write_files(root: Path) -> Path:
    """The pictures of ``objects.parquet`` as files, in two folders."""
    table = pq.read_table(OTHERS / "hugging_face" / "objects.parquet", columns=["image"])
    for row, image in enumerate(table.column("image").to_pylist()):
        path = root / "pics" / ("a" if row < 12 else "b") / f"{row:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image["bytes"])
    return root / "pics"


def write_coco(root: Path, **changed: Any) -> Path:
    """An annotation file in the layout of instances_val2017.json; entries may be other ones."""
    boxes = [(row, NAMES.index(tag)) for row in range(ROWS) for tag in [*TAGS[row], TAGS[row][0]]]
    whole = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 1000 + row, "file_name": f"{row:03d}.jpg", "height": 20, "width": 24}
            for row in range(ROWS)
        ]
        + [{"id": 7, "file_name": "elsewhere.jpg", "height": 1, "width": 1}],
        "annotations": [
            {
                "id": n,
                "image_id": 1000 + row,
                "category_id": 90 - tag,
                "bbox": [0, 0, 5, 5],
                "iscrowd": 0,
            }
            for n, (row, tag) in enumerate(boxes)
        ],
        "categories": [{"id": 90 - tag, "name": name} for tag, name in enumerate(NAMES)],
    }
    path = root / "instances.json"
    path.write_text(json.dumps(whole | changed))
    return path


def write_open_images(root: Path) -> dict[str, str]:
    """In the layout of train-annotations-human-imagelabels.csv and class-descriptions.csv; by option."""
    lines = ["ImageID,Source,LabelName,Confidence"]
    for row in range(ROWS):
        lines += [f"{row:03d},verification,/m/0{NAMES.index(tag)},1" for tag in TAGS[row]]
        lines.append(f"{row:03d},verification,/m/0{(row + 2) % 4},0")
        lines.append(f"{row:03d},machine,/m/0{(row + 3) % 4},0.4")
    lines.append("ffff,verification,/m/01,1")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    text = "LabelName,DisplayName\n" + "".join(f"/m/0{n},{name}\n" for n, name in enumerate(NAMES))
    (root / "classes.csv").write_text(text)
    return {"tags": str(root / "labels.csv"), "classes": str(root / "classes.csv")}

"""A small folder in the layout of the unpacked NUS-WIDE archives, with its quirks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZES = {"CH": 64, "CORR": 144, "EDH": 73, "WT": 128, "CM55": 225, "BoW": 500}
TAG_NAMES = ["sky", "2007", "café", "nature", "東京", *(f"tag{t}" for t in range(35))]
CONCEPTS = ["airport", "animal", *(f"concept{c:02d}" for c in range(77)), "window", "zebra"]
PARTS = {"Train": 180, "Test": 120}


@dataclass
class Layout:
    """What was written, Train rows first."""

    root: Path
    ids: list[str]
    features_BD: np.ndarray
    tags_BT: np.ndarray
    concepts_BC: np.ndarray

    def tags(self, concepts: bool = False) -> list[list[str]]:
        names, matrix = (CONCEPTS, self.concepts_BC) if concepts else (TAG_NAMES, self.tags_BT)
        return [[names[t] for t in np.flatnonzero(row)] for row in matrix]


def write_layout(root: Path, seed: int = 0) -> Layout:
    """Blanks at the end of lines, tabs between tags and Windows line ends, as in the original."""
    generator = np.random.default_rng(seed)
    rows = sum(PARTS.values())
    features = generator.random((rows, 634)) * (generator.random((rows, 634)) < 0.7)
    features_BD = np.concatenate([features, generator.integers(0, 9, (rows, 500))], 1)
    tags_BT = generator.random((rows, len(TAG_NAMES))) < 0.06
    concepts_BC = generator.random((rows, len(CONCEPTS))) < 0.02
    tags_BT[[4, 200]] = False
    concepts_BC[[9, 299]] = False
    ids = [f"class{row % 7}\\{row:04d}_{generator.integers(1e9)}.jpg" for row in range(rows)]
    for folder in ("Low_Level_Features", "ImageList", "ConceptsList", "NUS_WID_Tags"):
        (root / folder).mkdir(parents=True)
    labels = root / "Groundtruth" / "TrainTestLabels"
    labels.mkdir(parents=True)
    _lines(root / "ConceptsList/Concepts81.txt", CONCEPTS)
    _lines(root / "NUS_WID_Tags/TagList1k.txt", TAG_NAMES, end="\r\n")
    first = 0
    for part, count in PARTS.items():
        here = slice(first, first + count)
        first += count
        _lines(root / f"ImageList/{part}Imagelist.txt", ids[here], end="\r\n")
        column = 0
        for kind, size in SIZES.items():
            block = features_BD[here, column : column + size]
            column += size
            name = f"BoW_{part}_int.dat" if kind == "BoW" else f"{part}_Normalized_{kind}.dat"
            rows_text = [" ".join(f"{v:.6g}" for v in row) + " " for row in block]
            _lines(root / "Low_Level_Features" / name, rows_text)
        matrix = [("\t".join(str(int(v)) for v in row)) + "\t" for row in tags_BT[here]]
        _lines(root / f"NUS_WID_Tags/{part}_Tags1k.dat", matrix, end="\r\n")
        for place, concept in enumerate(CONCEPTS):
            values = [str(int(v)) for v in concepts_BC[here, place]]
            _lines(labels / f"Labels_{concept}_{part}.txt", values)
    return Layout(
        root,
        [i.replace("\\", "/") for i in ids],
        features_BD.astype(np.float32),
        tags_BT,
        concepts_BC,
    )


def _lines(path: Path, lines: list[str], end: str = "\n") -> None:
    path.write_bytes("".join(line + end for line in lines).encode())

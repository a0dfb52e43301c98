"""Writes a small folder in the layout of the NUS-WIDE distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distributed.ingest.nus_wide import FEATURE_FILES

CONCEPTS = [f"concept{i}" for i in range(81)]
TAGS = [f"tag{i}" for i in range(39)] + ["café"]


def write_nus_wide(root: Path, train: int = 200, test: int = 100) -> dict[str, np.ndarray]:
    """All files; every seventh image has no tag. Returns what was written."""
    generator = np.random.default_rng(0)
    for folder in ("Low_Level_Features", "ImageList", "ConceptsList", "NUS_WID_Tags",
                   "Groundtruth/TrainTestLabels"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "TagList1k.txt").write_text("\n".join(TAGS) + "\n", "utf-8")
    (root / "ConceptsList" / "Concepts81.txt").write_text("\n".join(CONCEPTS) + "\n", "utf-8")
    written: dict[str, np.ndarray] = {}
    for part, count in (("Train", train), ("Test", test)):
        names = [f"actor\\{part}_{i:04d}.jpg" for i in range(count)]
        (root / "ImageList" / f"{part}Imagelist.txt").write_bytes(
            "\r\n".join(names).encode() + b"\r\n"
        )
        blocks = []
        for name, (file, size) in FEATURE_FILES.items():
            value = generator.random((count, size), dtype=np.float32)
            if name == "BOW":
                value = np.floor(value * 20)
            form = "%d" if name == "BOW" else "%.8g"
            np.savetxt(root / "Low_Level_Features" / file.format(part=part), value, fmt=form,
                       newline=" \n")  # fmt: skip
            blocks.append(value)
        tags = generator.random((count, len(TAGS))) < 0.1
        tags[:, 0] |= ~tags.any(1)
        tags[::7] = False
        np.savetxt(root / "NUS_WID_Tags" / f"{part}_Tags1k.dat", tags.astype(int), fmt="%d",
                   delimiter="\t")  # fmt: skip
        concepts = generator.random((count, 81)) < 0.05
        for place, name in enumerate(CONCEPTS):
            path = root / "Groundtruth" / "TrainTestLabels" / f"Labels_{name}_{part}.txt"
            np.savetxt(path, concepts[:, place].astype(int), fmt="%d")
        written |= {f"{part} features": np.concatenate(blocks, axis=1), f"{part} tags": tags,
                    f"{part} concepts": concepts}  # fmt: skip
    return written

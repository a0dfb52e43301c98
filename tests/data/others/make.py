"""Small data sets as the tools that people use write them. Run in an environment of its own:

pip install datasets pillow deltalake webdataset pyspark && python make.py
.venv/bin/python tests/data/others/make.py ray_data
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

HERE = Path(__file__).parent
COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30), "white": (240,) * 3}
NAMES = sorted(COLOURS)
ROWS = 24
"""Image i has the colours i % 4 and, if i is odd, (i + 1) % 4: their names are its tags."""


def colours(row: int) -> list[int]:
    return [row % 4, (row + 1) % 4] if row % 2 else [row % 4]


def picture(row: int) -> Image.Image:
    stripe = [COLOURS[NAMES[place]] for place in colours(row)]
    pixels = np.array([stripe[x * len(stripe) // 24] for x in range(24)], np.uint8)
    noise = np.random.default_rng(row).integers(0, 8, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels[None].repeat(20, 0) // 9 * 8 + noise)


def encoded(row: int) -> bytes:
    file = io.BytesIO()
    picture(row).save(file, "JPEG")
    return file.getvalue()


def vectors() -> np.ndarray:
    """Features that the tags follow from."""
    noise = np.random.default_rng(0).normal(0, 0.1, (ROWS, 8))
    for row in range(ROWS):
        noise[row, colours(row)] += 1
    return noise.astype(np.float32)


def hugging_face(out: Path) -> None:
    from datasets import Array2D, ClassLabel, Dataset, Features, Image, Sequence, Value

    label = ClassLabel(names=NAMES)
    held = [{"bytes": encoded(row), "path": f"{row:03d}.jpg"} for row in range(ROWS)]
    single = Dataset.from_dict(
        {"image": held, "label": [row % 4 for row in range(ROWS)]},
        features=Features({"image": Image(), "label": label}),
    )
    single.select(range(18)).to_parquet(out / "single" / "train-00000-of-00001.parquet")
    single.select(range(18, ROWS)).to_parquet(out / "single" / "test-00000-of-00001.parquet")
    objects = Dataset.from_dict(
        {
            "image": [{"bytes": one["bytes"], "path": None} for one in held],
            "objects": [
                {"category": colours(r), "area": [1.0] * len(colours(r))} for r in range(ROWS)
            ],
        },
        features=Features(
            {
                "image": Image(),
                "objects": {"category": Sequence(label), "area": Sequence(Value("float32"))},
            }
        ),
    )
    objects.to_parquet(out / "objects.parquet")
    features = Dataset.from_dict(
        {
            "image_id": [f"{row:03d}" for row in range(ROWS)],
            "matrix": vectors().reshape(ROWS, 2, 4).tolist(),
            "vector": vectors().tolist(),
            "tags": [colours(row) for row in range(ROWS)],
        },
        features=Features(
            {
                "image_id": Value("string"),
                "matrix": Array2D(shape=(2, 4), dtype="float32"),
                "vector": Sequence(Value("float32")),
                "tags": Sequence(label),
            }
        ),
    )
    features.to_parquet(out / "features.parquet")


def table(first: int, last: int) -> pa.Table:
    rows = range(first, last)
    return pa.table(
        {
            "image_id": [f"{row:03d}" for row in rows],
            "features": pa.array(list(vectors()[first:last]), pa.list_(pa.float32())),
            "tags": [[NAMES[place] for place in colours(row)] for row in rows],
            "split": ["test" if row % 4 == 3 else "train" for row in rows],
        }
    )


def delta(out: Path) -> None:
    """24 rows in two writes; then row 5 is deleted and row 6 changed: files of before lie there still."""
    from deltalake import DeltaTable, write_deltalake

    write_deltalake(out, table(0, 12), partition_by=["split"])
    write_deltalake(out, table(12, ROWS), mode="append")
    DeltaTable(out).delete("image_id = '005'")
    DeltaTable(out).update(updates={"image_id": "'six'"}, predicate="image_id = '006'")


def spark(out: Path) -> None:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[1]").getOrCreate()
    frame = session.createDataFrame(
        table(0, ROWS).to_pylist(),
        "image_id string, features array<float>, tags array<string>, split string",
    )
    frame.coalesce(2).write.partitionBy("split").parquet(str(out))
    session.stop()


def web_dataset(out: Path) -> None:
    import webdataset

    out.mkdir(parents=True)
    for name, rows in (("train", range(18)), ("test", range(18, ROWS))):
        with webdataset.ShardWriter(str(out / f"{name}-%04d.tar"), maxcount=9, verbose=0) as sink:
            for row in rows:
                words = [NAMES[place] for place in colours(row)]
                sample = {"__key__": f"{row // 10}/{row:03d}", "jpg": encoded(row)}
                sink.write(sample | {"json": {"tags": words, "height": 20}, "txt": ",".join(words)})


def ray_data(out: Path) -> None:
    """In this project's own environment: features are ``ArrowTensorTypeV2``."""
    import ray
    from ray.data.extensions import ArrowTensorArray

    def add(batch: pa.Table) -> pa.Table:
        row = [int(key) for key in batch.column("image_id").to_pylist()]
        matrix = vectors()[row].reshape(-1, 2, 4)
        return batch.append_column("features", ArrowTensorArray.from_numpy(matrix))

    ray.init(num_cpus=1)
    rows = table(0, ROWS).drop_columns(["features"])
    ray.data.from_arrow(rows).map_batches(add, batch_format="pyarrow").write_parquet(str(out))


if __name__ == "__main__":
    for name in sys.argv[1:] or ("hugging_face", "delta", "spark", "web_dataset"):
        shutil.rmtree(HERE / name, ignore_errors=True)
        globals()[name](HERE / name)

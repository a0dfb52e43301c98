"""Jobs on several features columns: named once, in training; in the calling process, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.driver.in_process import launch
from drel_core.bundle.format import read_info
from jobs import annotate, compare, evaluate
from jobs.train import main
from tests.helpers.store_checks import fixed
from tests.helpers.stores import planted_table

SMALL = ["--epochs", "2", "--model.image_hidden", "16", "--model.latent", "8", "--threads", "1"]


def write(path: Path, rows: int, seed: int) -> str:
    table = planted_table(rows, seed=seed, first=1000 * seed)
    value_BD = np.stack(table["features"].to_numpy(zero_copy_only=False))
    stored = {
        "image_id": table["image_id"],
        "low": fixed(np.abs(value_BD[:, :6])),
        "deep": fixed(value_BD[:, 6:]),
        "tags": table["tags"],
    }
    pq.write_table(pa.table(stored), path)
    return str(path)


def test_columns_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = (write(tmp_path / f"{seed}.parquet", 150, seed) for seed in (0, 1))
    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    stores = ["--data.train", train, "--data.test", test, "--data.columns.features", "deep,low"]
    main([*stores, "--out", out, *SMALL], launch)
    shares = read_info(tmp_path / "out" / "model").train["kernel_shares"]
    assert "shares of features columns in the kernel's distances: deep" in capsys.readouterr().out
    assert list(shares) == ["deep", "low"]

    # config.yaml says all that follows from the data, the root of one column alone too.
    main(["--config", f"{out}/config.yaml", "--out", again], launch)
    versions = [read_info(tmp_path / name / "model").version for name in ("out", "again")]
    assert versions[0] == versions[1]
    trained = read_info(tmp_path / "again" / "model").content["model"]
    assert trained["power_blocks"] == [[10, 1.0], [6, 0.5]]

    evaluate.main(["--model", out, "--data", test, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    expected = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["decisions"] == expected["decisions"] and found["mAP"] == expected["mAP"]
    annotate.main(["--model", out, "--data", test, "--out", str(tmp_path / "annotated")])
    assert len(pq.read_table(tmp_path / "annotated" / "part-0000000.parquet")) == 150


def test_compare_trains_every_method_on_the_columns() -> None:
    data = compare.CompareData(train="a", test="b", columns=compare.Columns(features="deep,low"))
    arguments = compare.train_arguments(compare.CompareConfig(data=data, out="c"), "knn", 0)
    assert arguments[arguments.index("--data.columns.features") + 1] == "deep,low"

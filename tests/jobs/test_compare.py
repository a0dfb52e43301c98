"""`python -m jobs.compare`: every method beats the floor where the answer is known; what fails is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distributed.driver import knn
from jobs.compare import CompareConfig, CompareData, chosen
from jobs.comparison import Entry
from tests.conftest import Job
from tests.helpers.stores import write_planted

METHODS = ("knn", "svm", "wsabie", "drel:best")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tags an image, planted: with k = 2 a perfect method reaches F1 = 1."""
    root = tmp_path_factory.mktemp("planted")
    train = write_planted(root / "train.parquet", 600, each=2)
    test = write_planted(root / "test.parquet", 120, seed=1, first=10_000, each=2)
    return ["--data.train", str(train), "--data.test", str(test), "--k", "2"]


def test_every_method_beats_the_floor_and_a_broken_one_does_not_stop_the_others(
    stores: list[str], tmp_path: Path, ray_job: Job
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "model: {latent: 8, tag_tower: none, tag_dim: 8, metric: none}\n"
        "data: {validation: 0.000001}\n"
    )
    out = tmp_path / "out"
    done = ray_job(
        "compare",
        *stores,
        "--out",
        str(out),
        "--epochs",
        "20",
        "--methods",
        f"drel:{broken},{','.join(METHODS)}",
    )
    assert done.returncode == 1, done.stderr
    assert "holds out none" in done.stderr
    results = json.loads((out / "results.json").read_text("utf-8"))
    rows = {row["name"]: row for row in results["methods"]}
    assert list(rows) == ["popularity", f"drel:{broken}", *METHODS, "upper bound"]
    floor = rows["popularity"]["mean"]["F1"]
    for name in METHODS:
        assert rows[name]["mean"]["F1"] > floor + 0.2, (name, rows[name]["mean"])
    assert rows["drel:best"]["mean"]["F1"] >= 0.95
    assert rows["upper bound"]["mean"]["F1"] == 1.0
    assert (rows["wsabie"]["complexity"], rows["drel:best"]["complexity"]) == ("O(T)", "O(R + T)")
    assert rows[f"drel:{broken}"]["failed"]
    for name in ("knn", "svm", "wsabie", "drel:best"):
        assert rows[name]["decisions"].keys() == {"top", "macro", "threshold"}
        assert rows[name]["decisions"]["top"]["mean"] == rows[name]["mean"]
        for found in rows[name]["decisions"].values():
            assert found["mean"]["F1"] > floor + 0.2, (name, found)
            assert 0 <= found["mean"]["ece"] < 0.2 and found["mean"]["P@1"] > 0.5, (name, found)
    assert not rows["popularity"]["decisions"] and not rows["upper bound"]["decisions"]
    bands = rows["drel:best"]["runs"][0]["bands"]
    assert sum(band["tags"] for band in bands.values()) == 12
    table = (out / "table.md").read_text("utf-8")
    assert table.index("popularity floor") < table.index("drel best") < table.index("upper bound")
    assert "failed: seed 0" in table
    top, macro, threshold = (
        table[table.index(f"Decision `{how}`") :].split("\n\n")[1].splitlines()
        for how in ("top", "macro", "threshold")
    )
    assert len(top) == 2 + len(rows)
    for block in (macro, threshold):
        labels = [line.split(" | ")[0].strip("| ") for line in block[2:]]
        assert labels == ["popularity floor", "knn", "svm", "wsabie", "drel best", "upper bound"]
    said = f"{rows['svm']['decisions']['macro']['mean']['F1']:.3f}"
    assert said in macro[3] or said in macro[4]
    assert (out / "table.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "drel,drel"], "names one twice"),
        (["--methods", "magic"], "magic"),
        (["--methods", "drel:none"], "is not known; choose one of"),
        (["--methods", "drel", "--seeds", "0"], "must be 1 or more"),
    ],
)
def test_wrong_options_are_told_before_training(
    stores: list[str], tmp_path: Path, job: Job, arguments: list[str], message: str
) -> None:
    done = job("compare", *stores, "--out", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_all_methods_go_by_one_vocabulary(stores: list[str], tmp_path: Path, job: Job) -> None:
    """Both spellings are one tag and a blocked one is none, for methods, floor and bound alike."""
    rules = tmp_path / "vocabulary.yaml"
    rules.write_text("aliases: {tag-01: tag-00}\nimplies: {tag-02: thing}\nblocked: [tag-03]\n")
    arguments = [*stores, "--out", tmp_path / "out", "--methods", "knn"]
    done = job("compare", *arguments, "--tags.vocabulary", rules)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    floor, knn_, bound = (row["runs"][0] for row in found["methods"])
    # Of twelve tags one is another spelling, one is blocked, and one is implied.
    assert floor["tags"] == knn_["tags"] == bound["tags"] == 11
    assert {row["tags_scored"] for row in (floor, knn_, bound)} == {11}
    assert knn_["F1"] > floor["F1"] + 0.2 and knn_["floor"]["F1"] == floor["F1"]
    assert found["vocabulary"] == str(rules)
    assert f"Tags by the rules of `{rules}`." in (tmp_path / "out" / "table.md").read_text()
    other = job("compare", *arguments)
    assert other.returncode == 2 and "another tags.vocabulary" in other.stderr
    preset = tmp_path / "preset.yaml"
    preset.write_text(f"tags: {{vocabulary: {rules}}}\n")
    own = job("compare", *stores, "--out", tmp_path / "x", "--methods", f"knn:{preset}")
    assert own.returncode == 2 and "give all methods the same by --tags.vocabulary" in own.stderr


def test_what_cannot_be_done_is_left_out_and_the_others_go_on(
    stores: list[str], tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "available_bytes", lambda: 600 * 16 * 8 - 1)
    arguments = [*stores, "--out", str(tmp_path), "--methods", "svm,cnn-warp,knn"]
    done = job("compare", *arguments, "--max_hours", "1e-9")
    assert done.returncode == 0, done.stderr
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "results.json").read_text())["methods"]
    }
    whys = {
        "svm": "12 SVMs take about",
        "cnn-warp": "--images.train",
        "knn": "600 rows of 16 features",
    }
    table = (tmp_path / "table.md").read_text("utf-8")
    for name, why in whys.items():
        assert why in rows[name]["skipped"] and not rows[name]["failed"] and not rows[name]["runs"]
        assert f"{name} is left out: {rows[name]['skipped']}" in done.stderr
        assert f"| {name} | left out: {rows[name]['skipped']} |" in table

    monkeypatch.setattr(knn, "available_bytes", lambda: 600 * 16 * 8)
    assert job("compare", *arguments, "--max_hours", "1e-9").returncode == 0
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "results.json").read_text())["methods"]
    }
    assert rows["svm"]["skipped"] and not rows["knn"]["skipped"] and rows["knn"]["mean"]["F1"] > 0.5


def test_the_floor_stands_once_and_a_preset_file_is_named_without_its_path() -> None:
    config = CompareConfig(
        data=CompareData(train="a", test="b"), out="c", methods="knn, popularity,drel:paper"
    )
    assert chosen(config) == ["knn", "drel:paper"]
    assert chosen(replace(config, methods="popularity")) == []  # the floor of every table
    labels = [
        Entry(name).label for name in ("popularity", "knn", "drel:paper", "drel:/a/b/own.yaml")
    ]
    assert labels == ["popularity floor", "knn", "drel paper", "drel own"]

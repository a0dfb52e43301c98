"""The program that measures a GPU, on a CPU, where torch and numpy are all that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml

from benchmarks.device_checks import Checks
from benchmarks.device_rates import FULL, SMALL, Stepping
from benchmarks.device_workload import BEST, random_tags
from benchmarks.gpu import Report, measure
from benchmarks.train_step import step_flops
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.size_rule import DataSize, apply_size_rule
from drel_core.auto import AUTO
from drel_core.model.towers import ModelConfig
from tests.helpers.torch_alone import ROOT, run_with_torch_alone


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "found.json"
    done = run_with_torch_alone("benchmarks.gpu", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    assert json.loads(out.read_text()) == found
    return found


def test_every_check_passes_and_no_part_fails(document: dict[str, Any]) -> None:
    assert document["passed"] and document["errors"] == {}
    assert [check for check in document["checks"] if not check["passed"]] == []
    names = " ".join(check["name"] for check in document["checks"])
    for part in ("gradients", "row-wise Adagrad", "top k", "evaluation", "gloo: all-reduce"):
        assert part in names


def test_the_document_says_what_was_measured(document: dict[str, Any]) -> None:
    assert document["sizes"] == "small"
    assert {"date", "commit", "torch", "device"} <= document["environment"].keys()
    assert document["matmul"].keys() == {"fp32", "bf16"}
    assert {"read", "copy", "host_pageable"} <= document["memory"].keys()
    assert [row["features_in"] for row in document["feed"]] == ["device", "pageable"]
    assert [row["rows"] for row in document["table"]] == list(SMALL.table_rows)
    assert [row["images"] for row in document["topk"]] == list(SMALL.topk_images)
    assert document["peak_bytes"].keys() == document["seconds"].keys()
    plain = [row for row in document["steps"] if not row["compile"]]
    assert len(plain) == len(SMALL.steps) * len(SMALL.precisions)
    for row in plain:
        assert row["triplets_per_second"] > row["images_per_second"] > 0
        assert row["share_of_matmul_rate"] > 0 and row["feed_bytes_per_second"] > 0
    # On a slow machine there may be no time left to compile; then the document says so.
    compiled = [row for row in document["steps"] if row["compile"]]
    assert len(compiled) + len(document["cut"]) == 1
    assert all("failed" in row or row["ms"] > 0 for row in compiled)


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: torch sees no CUDA device; --device cpu runs without one\n"


def test_a_check_that_had_no_time_is_not_passed() -> None:
    document = measure(torch.device("cpu"), seconds=0)
    assert not document["passed"] and "check_step" in document["cut"]


def test_a_part_that_fails_ends_that_part_alone(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(torch.device("cpu"), seconds=60)
    report.part("bad", lambda: torch.zeros(2) @ torch.zeros(3))
    report.part("good", lambda: [{"ms": 1.0}, {"failed": "no compiler", "compile": True}])
    assert list(report.errors) == ["bad"] and report.found["good"][0] == {"ms": 1.0}
    report.part("worse", lambda: [{"failed": "no memory", "compile": False}])
    assert report.errors["worse"] == "no memory"


def test_a_difference_is_seen() -> None:
    checks, same = Checks(), torch.ones(3)
    checks.close("near", same * 1.001, same, 1e-2)
    checks.equal("same", same, same)
    assert checks.passed
    wrong = ((same * 1.1, 1e-2), (same * torch.nan, 1.0), (torch.ones(1), 1.0))
    for found, tolerance in wrong:
        checks = Checks()
        checks.close("far", found, same, tolerance)
        assert not checks.passed
    checks = Checks()
    checks.equal("almost", same * (1 + 1e-6), same)
    assert not checks.passed


def test_the_multiplications_counted_are_those_of_the_formula() -> None:
    workload = SMALL.steps["paper"]
    take = Stepping(workload, torch.device("cpu"))
    assert take.flops() == step_flops(take.learner.model, workload.batch, workload.tags)


def test_the_model_measured_is_that_of_the_preset() -> None:
    preset = yaml.safe_load((ROOT / "jobs" / "presets" / "best.yaml").read_text())
    model = ModelConfig(**preset["model"])
    config = TrainConfig(data=DataConfig(train=""), out="", model=model)
    given, _ = apply_size_rule(config, DataSize(1_000_000, 100_000, 256))
    assert {name: getattr(given.model, name) for name in preset["model"]} == {**BEST, "power": AUTO}
    best = FULL.steps["best"]
    assert preset["loss"]["kind"] == best.loss.kind
    assert preset["optim"]["optimiser"] == best.optim.optimiser


def test_random_tags_of_an_image_are_different_tags() -> None:
    tags = random_tags(200, 4, 30, torch.Generator().manual_seed(0))
    assert len(tags) == 200
    for row in tags.tolist():
        assert 1 <= len(row) == len(set(row)) <= 4 and all(0 <= tag < 30 for tag in row)

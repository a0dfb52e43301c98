"""Bundles of many tags: encoded once a machine, searched by codes where that finds what scoring all finds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles import tag_side
from distributed.bundles.open import open_annotator
from distributed.data.feature_store import FeatureStore
from distributed.data.replay_buffer import RESERVOIR
from distributed.data.survey import survey_store
from distributed.inference.evaluate import evaluate_store
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.decision.calibration import Calibration
from drel_core.decision.kernel import KERNEL
from drel_core.errors import InputError
from drel_core.model.towers import ModelConfig
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import ROOT

TAGS, DIM = 3000, 12
SHAPE = ModelConfig(
    image_hidden=16,
    latent=16,
    activation="gelu",
    latent_activation=False,
    linear_path=True,
    tag_tower="none",
    tag_bias=True,
    normalise=True,
    scale=8.0,
    metric="none",
)


@pytest.fixture(autouse=True)
def few_tags_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tag_side, "LEAST_TAGS", 1000)
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()


def bundle(folder: Path, reservoir: int = 100, decides: bool = True, seed: int = 0) -> Path:
    # Few tags of an image are likely.
    steep = Calibration(torch.full((1,), 3.0), torch.full((TAGS,), -20.0), torch.eye(5)[0])
    decider = replace(random_decider(TAGS), calibration=steep) if decides else None
    write_drel(folder, DIM, TAGS, seed=seed, decider=decider, shape=SHAPE)
    if reservoir:
        rows_ND = np.random.default_rng(0).normal(size=(reservoir, DIM)).astype(np.float32)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), DIM)
        ids = pa.array([str(row) for row in range(reservoir)])
        tags = pa.array([["tag-01"]] * reservoir)
        pq.write_table(
            pa.table({"image_id": ids, "features": flat, "tags": tags}), folder / RESERVOIR
        )
    return folder


def opened(folder: Path) -> DRELAnnotator:
    annotator = open_annotator(str(folder))
    assert isinstance(annotator, DRELAnnotator)
    return annotator


def kept(tmp_path: Path) -> list[Path]:
    folders = (tmp_path / "scratch" / f"drel-{os.getuid()}" / "tags").glob("*")
    return sorted(path for path in folders if path.is_dir())


@pytest.mark.parametrize("decides", [True, False])
def test_a_searched_bundle_says_what_a_scored_one_says(tmp_path: Path, decides: bool) -> None:
    folder = bundle(tmp_path / "m", decides=decides)
    features_BD = torch.randn(50, DIM)
    exact = load_bundle(folder)
    for _ in range(2):  # made, then mapped
        found = opened(folder)
        assert found.search is not None and found.search.recall >= 0.999
        for k in (1, 5, 60):  # 60: deeper than codes are checked for
            (score_Bk, tag_Bk), expected = found.annotate(features_BD, k), None
            expected = exact.annotate(features_BD, k)
            assert (tag_Bk == expected[1]).all(1).float().mean() >= 0.95
            torch.testing.assert_close(score_Bk[:, 0], expected[0][:, 0])
        torch.testing.assert_close(found.scores(features_BD), exact.scores(features_BD))
    assert len(kept(tmp_path)) == 1
    assert open_annotator(str(folder), "exact").search is None  # type: ignore[attr-defined]


def test_evaluation_by_the_best_tags_counts_what_all_scores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = bundle(tmp_path / "m"), load_bundle(bundle(tmp_path / "n")).vocabulary.names
    generator = np.random.default_rng(1)
    rows_ND = generator.normal(size=(300, DIM)).astype(np.float32)
    best_Nk = load_bundle(folder).annotate(torch.from_numpy(rows_ND), 3)[1].tolist()
    tags = [[names[tag] for tag in best] + ["unknown"] for best in best_Nk]
    pq.write_table(
        pa.table(
            {"image_id": [str(row) for row in range(300)], "features": list(rows_ND), "tags": tags}
        ),
        tmp_path / "store.parquet",
    )
    store = FeatureStore.open(str(tmp_path / "store.parquet"))
    survey = survey_store(store, "fail", statistics=False)
    monkeypatch.setattr("distributed.inference.evaluate.fits_map", lambda *_: False)
    found = {}
    for search in ("auto", "exact"):
        annotator = open_annotator(str(folder), search)  # type: ignore[arg-type]
        found[search] = evaluate_store(annotator, annotator.vocabulary, survey, store.columns)
    by_codes, whole = found["auto"], found["exact"]
    assert by_codes["mAP"] is None and whole["mAP"] is not None
    for key in ("F1", "N+", "oF1", "P@1", "ece"):
        assert by_codes[key] == pytest.approx(whole[key], rel=0.02, abs=1e-3)
    for how in ("macro", "threshold"):
        other = whole["decisions"][how]["oF1"]
        assert by_codes["decisions"][how]["oF1"] == pytest.approx(other, rel=0.02, abs=1e-3)
    assert sum(row["pairs"] for row in whole["reliability"]) > 0


def test_it_is_made_once_and_anew_for_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(tmp_path / "m")
    opened(folder)
    made = tag_side._make

    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(tag_side, "_make", never)
    assert opened(folder).search is not None
    monkeypatch.setattr(tag_side, "_make", made)
    other = bundle(tmp_path / "other", seed=1)
    for name in ("model.safetensors", "tag_embedding-00000-of-00001.safetensors"):
        # config.json, and so the version that it claims, stays.
        (folder / name).write_bytes((other / name).read_bytes())
    features_BD = torch.randn(5, DIM)
    expected_BT = load_bundle(folder).scores(features_BD)
    torch.testing.assert_close(opened(folder).scores(features_BD), expected_BT)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("name", ["tag.npy", "bias.npy", "code_Th.npy", "side.json"])
@pytest.mark.parametrize("found", [None, b"", b"null", "half", "other"])
def test_it_is_made_anew_where_a_part_of_it_is_gone_or_damaged(
    tmp_path: Path, name: str, found: bytes | str | None
) -> None:
    folder = bundle(tmp_path / "m")
    opened(folder)
    (place,) = kept(tmp_path)
    whole = (place / name).read_bytes()
    (place / name).unlink()
    if found == "other":  # a part of fewer tags
        np.save(tmp_path / "other.npy", np.zeros((5, 16), np.float32))
        found = (tmp_path / "other.npy").read_bytes()
    elif found == "half":
        found = whole[: len(whole) // 2]
    if isinstance(found, bytes):
        (place / name).write_bytes(found)
    assert opened(folder).search is not None
    assert kept(tmp_path) == [place] and (place / name).read_bytes() == whole


def test_what_nobody_used_for_a_day_goes(tmp_path: Path) -> None:
    opened(bundle(tmp_path / "a"))
    (first,) = kept(tmp_path)
    os.utime(first, (0, 0))
    opened(bundle(tmp_path / "b", seed=1))
    assert first not in kept(tmp_path) and len(kept(tmp_path)) == 1


def test_versions_that_follow_each_other_quickly_do_not_fill_the_disk(tmp_path: Path) -> None:
    for seed in range(6):
        folder = bundle(tmp_path / str(seed), seed=seed)
        opened(folder)
        now = time.time() + seed - 10
        for path in kept(tmp_path):
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))
    assert len(kept(tmp_path)) == tag_side._KEPT < 6
    before = kept(tmp_path)
    opened(folder)  # the last one is among them
    assert kept(tmp_path) == before


def test_processes_killed_while_making_it_leave_one_part_that_the_next_removes(
    tmp_path: Path,
) -> None:
    folder = bundle(tmp_path / "m")
    code = """if True:
        import os, signal
        from distributed.bundles import open, tag_side
        tag_side.LEAST_TAGS = 1000
        tag_side._find = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        open.open_annotator(os.sys.argv[1])
    """
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(kept(tmp_path)) == 1
    assert opened(folder).search is not None
    (place,) = kept(tmp_path)
    assert (place / "side.json").is_file()


def test_all_of_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that goes down must not leave tags of zeros that are taken for the model's."""
    flushed: set[int] = set()
    fsync, rename = os.fsync, Path.rename
    missing: list[str] = []

    def noted(file: int) -> None:
        flushed.add(os.fstat(file).st_ino)
        fsync(file)

    def checked(self: Path, target: Path) -> Path:
        missing.extend(path.name for path in self.iterdir() if path.stat().st_ino not in flushed)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", checked)
    opened(bundle(tmp_path / "m"))
    assert flushed and missing == []


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", RESERVOIR])
def test_it_is_made_anew_where_a_file_beside_the_tensors_changed(tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "m")
    opened(folder)
    os.utime(folder / name, (1, 1))
    opened(folder)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("reservoir", [0, 1, 15])
def test_without_rows_to_try_codes_with_all_tags_are_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reservoir: int
) -> None:
    folder = bundle(tmp_path / "m", reservoir=reservoir)
    with caplog.at_level(logging.WARNING):
        assert opened(folder).search is None
        assert opened(folder).search is None  # kept
    assert "keeps fewer than 16 rows that differ" in caplog.text


def test_rows_that_are_all_alike_count_as_one(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    table = pq.read_table(folder / RESERVOIR)
    pq.write_table(table.take(pa.array([0] * 100)), folder / RESERVOIR)
    assert opened(folder).search is None


def test_codes_that_find_too_little_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drel_core.scoring.tag_search.DISTORTIONS", (0.7,))
    folder = bundle(tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        found = opened(folder)
    assert found.search is None and "every tag is scored: codes found" in caplog.text
    features_BD = torch.randn(9, DIM)
    assert (
        found.annotate(features_BD, 5)[1] == load_bundle(folder).annotate(features_BD, 5)[1]
    ).all()


def test_no_room_to_keep_it_is_said_and_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with caplog.at_level(logging.WARNING):
        found = opened(bundle(tmp_path / "m"))
    assert found.search is not None and "No space left on device" in caplog.text
    assert kept(tmp_path) == []  # nothing half-made stays


def test_a_folder_of_another_user_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "scratch" / f"drel-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    taken.symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert opened(bundle(tmp_path / "m")).search is not None
    assert "belongs to another user; set DREL_SCRATCH" in caplog.text
    assert not list((tmp_path / "elsewhere").iterdir())


def test_files_that_change_while_they_are_read_are_not_kept_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = bundle(tmp_path / "m"), bundle(tmp_path / "other", seed=1)
    name, found = "model.safetensors", tag_side.encode_side

    def changed(*arguments: Any) -> None:
        found(*arguments)
        (folder / name).write_bytes((other / name).read_bytes())

    monkeypatch.setattr(tag_side, "encode_side", changed)
    with pytest.raises(InputError, match="changed while they were read"):
        opened(folder)
    assert kept(tmp_path) == []


def test_a_kernel_scores_all_tags(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    info = load_bundle(folder).info
    assert tag_side.may_search(folder, info)
    (folder / KERNEL).touch()
    assert not tag_side.may_search(folder, info)


MEMORY = """
import sys
import faiss
from distributed.bundles import tag_side
from distributed.bundles.open import open_annotator

def anonymous():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Pss_Anon"):
            return int(line.split()[1]) * 1024

tag_side.LEAST_TAGS = 1000
before = anonymous()
annotator = open_annotator(sys.argv[1])
assert annotator.search is not None
annotator.annotate(annotator.model.mean_D[None].clone(), 5)
print(anonymous() - before)
"""


def test_processes_of_a_machine_share_the_encoded_tags(tmp_path: Path) -> None:
    tags, latent = 50_000, 256
    shape = replace(SHAPE, latent=latent, tag_dim=latent)
    names = tuple(f"tag {tag}" for tag in range(tags))
    folder = write_drel(tmp_path / "m", DIM, names=names, shape=shape)
    rows_ND = np.random.default_rng(0).normal(size=(64, DIM)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), DIM)
    pq.write_table(pa.table({"features": flat}), folder / RESERVOIR)
    opened(folder)  # made
    run = [sys.executable, "-c", MEMORY, str(folder)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    # Its own: codes of at most 136 bytes a tag, names and counts; not the 1,028 bytes of each tag.
    assert int(done.stdout) < 500 * tags


def test_a_damaged_table_is_refused_as_ever(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    table = folder / "tag_embedding-00000-of-00001.safetensors"
    table.write_bytes(table.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged"):
        opened(folder)
    assert kept(tmp_path) == []

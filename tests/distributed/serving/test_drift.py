"""Figures of drift against plain numpy."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.replay_buffer import RESERVOIR, kept_features
from distributed.serving.drift import Drift, SeenFeatures, TagShares
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.metrics import DriftMetrics
from distributed.serving.model import ServedModel
from distributed.serving.requests import ScoreRequest
from tests.helpers.bundles import random_decider, write_drel

D = 8


def pictures_of(count: int, seed: int) -> np.ndarray:
    """Rows on a plane of three dimensions, of lengths that differ."""
    generator = np.random.default_rng(seed)
    plane_3D = np.random.default_rng(99).normal(size=(3, D))
    found: np.ndarray = (generator.normal(size=(count, 3)) + 2) @ plane_3D
    return found.astype(np.float32)


def keep(folder: Path, features_ND: np.ndarray) -> None:
    rows = len(features_ND)
    flat = pa.array(features_ND.reshape(-1))
    table = {
        "image_id": [f"i{row:05d}" for row in range(rows)],
        "tags": [["tag-00"]] * rows,
        "features": pa.FixedSizeListArray.from_arrays(flat, features_ND.shape[1]),
    }
    pq.write_table(pa.table(table), folder / RESERVOIR)


def test_unseen_rows_are_those_of_the_naive_rule() -> None:
    kept_ND, rows_BD = pictures_of(300, 0), pictures_of(200, 1)
    rows_BD[:40] = np.random.default_rng(2).normal(size=(40, D)) * 3
    rows_BD[40:60] *= 30
    mean_D, std_D = kept_ND.mean(0), kept_ND.std(0)

    def tenth(row_D: np.ndarray, others_ND: np.ndarray) -> float:
        cosines = []
        for other_D in others_ND:
            one, two = (row_D - mean_D) / std_D, (other_D - mean_D) / std_D
            cosines.append(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
        return sorted(cosines)[-10]

    lengths = np.linalg.norm((kept_ND - mean_D) / std_D, axis=1)
    least, most = np.quantile(lengths, [0.0025, 0.9975])
    among = [tenth(row, np.delete(kept_ND, place, 0)) for place, row in enumerate(kept_ND)]
    limit = np.quantile(among, 0.005)
    expected = [
        not least <= np.linalg.norm((row - mean_D) / std_D) <= most or tenth(row, kept_ND) < limit
        for row in rows_BD
    ]
    found_B = SeenFeatures(kept_ND).unseen(rows_BD)
    assert found_B.tolist() == expected
    assert found_B[:60].mean() > 0.9
    assert found_B[60:].mean() < 0.05


def test_columns_that_never_vary_do_not_count() -> None:
    kept_ND = pictures_of(300, 0)
    rows_BD = pictures_of(100, 1)
    constant = np.full((300, 1), 7, np.float32)
    wide = SeenFeatures(np.concatenate([kept_ND, constant], 1))
    found_B = wide.unseen(np.concatenate([rows_BD, constant[:100]], 1))
    assert found_B.tolist() == SeenFeatures(kept_ND).unseen(rows_BD).tolist()


@pytest.mark.parametrize("tags", [3, 400])
def test_the_index_is_the_naive_sum_over_bins(tags: int) -> None:
    generator = np.random.default_rng(tags)
    counts_T = np.sort(generator.integers(0, 500, tags))[::-1].copy()
    counts_T[-1] = 0  # known by its name alone
    shares = TagShares(counts_T)
    tag_BM = np.stack([generator.permutation(tags)[:3] for _ in range(60)])
    probability_BM = generator.random((60, 3))
    shares.add(tag_BM[:40], probability_BM[:40])
    shares.add(tag_BM[40:], probability_BM[40:])
    mass = np.zeros(tags)
    for row in range(60):
        weight = np.exp(-20 / 1000) if row < 40 else 1.0
        for tag, probability in zip(tag_BM[row], probability_BM[row], strict=True):
            mass[tag] += weight * probability
    training = np.maximum(counts_T, 0.5) / np.maximum(counts_T, 0.5).sum()
    share = (mass + training) / (mass.sum() + 1)
    bins: dict[int, list[int]] = {}
    before = 0.0
    for tag in range(tags):  # they are in order of their counts
        bins.setdefault(int(before * 20), []).append(tag)
        before += training[tag]
    expected = 0.0
    for members in bins.values():
        there, then = share[members].sum(), training[members].sum()
        expected += (there - then) * np.log(there / then)
    assert shares.index() == pytest.approx(expected)
    assert 1 < len(bins) <= 20
    parts = (share - training) * np.log(share / training)
    most = np.argsort(-parts, kind="stable")[:10].tolist()
    assert [tag for tag, _, _ in shares.moved()] == most
    assert [one for _, one, _ in shares.moved()] == pytest.approx(share[most])


def test_a_model_reports_what_it_was_asked(tmp_path: Path) -> None:
    path = write_drel(tmp_path / "m", decider=random_decider(12))
    keep(path, pictures_of(400, 0))
    drift = Drift(ServedModel(str(path)), DriftMetrics())
    drift.prepare()
    empty = drift.report()
    assert (empty["rows"], empty["unseen"], empty["tags_index"]) == (0, None, None)
    for seed in range(1, 6):
        drift.look(pictures_of(100, seed))
    usual = drift.report()
    assert usual["rows"] == 500 and usual["unseen"] < 0.05
    assert len(usual["moved"]) == 10 and usual["tags_index"] > 0
    for seed in range(6, 26):
        drift.look(np.random.default_rng(seed).normal(size=(100, D)).astype(np.float32) * 5)
    strange = drift.report()
    assert strange["unseen"] > 0.8  # what came long ago has faded
    overflow_BD = np.full((100, D), 3e38, np.float32)
    overflow_BD[:, ::2] *= -1
    with np.errstate(all="ignore"):
        drift.look(overflow_BD)
    assert np.isfinite(drift.report()["tags_index"])


def test_a_model_that_keeps_no_rows_or_knows_no_probabilities_has_no_such_figure(
    tmp_path: Path,
) -> None:
    plain = write_drel(tmp_path / "plain")
    keep(plain, pictures_of(300, 0))
    drift = Drift(ServedModel(str(plain)), DriftMetrics())
    drift.prepare()
    drift.look(pictures_of(150, 1))
    report = drift.report()
    assert report["unseen"] is not None and report["tags_index"] is None and not report["moved"]
    for name, rows in (("none", 0), ("few", 50)):
        path = write_drel(tmp_path / name, decider=random_decider(12))
        if rows:
            keep(path, pictures_of(rows, 0))
        drift = Drift(ServedModel(str(path)), DriftMetrics())
        drift.prepare()
        drift.look(pictures_of(150, 1))
        report = drift.report()
        assert report["unseen"] is None and report["tags_index"] is not None


def test_kept_rows_are_read_in_parts_evenly(tmp_path: Path) -> None:
    path = write_drel(tmp_path / "m")
    kept_ND = pictures_of(5000, 0)
    kept_ND[17] = np.nan
    keep(path, kept_ND)
    model = ServedModel(str(path))
    np.testing.assert_array_equal(
        kept_features(model.folder, model.image_dim, 10_000), np.delete(kept_ND, 17, 0)
    )
    places = np.linspace(0, 4999, 1000, dtype=np.int64)
    np.testing.assert_array_equal(
        kept_features(model.folder, model.image_dim, 1000), kept_ND[places]
    )
    keep(path, np.zeros((10, D + 1), np.float32))  # of another model
    assert len(kept_features(model.folder, model.image_dim, 1000)) == 0


def test_rows_are_drawn_from_the_answers_and_looks_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_drel(tmp_path / "m", decider=random_decider(12))
    keep(path, pictures_of(300, 0))
    times: list[tuple[float, float]] = []
    looked: list[np.ndarray] = []
    sent: set[bytes] = set()
    look = Drift.look

    def slow(self: Drift, features_BD: np.ndarray) -> None:
        started = time.perf_counter()
        look(self, features_BD)
        time.sleep(0.005)
        looked.append(features_BD)
        times.append((started, time.perf_counter()))

    async def run() -> None:
        held = HotSwapModel(ServedModel, max_rows=64, queue_rows=64)
        await held.follow(str(path), 60)
        until = time.perf_counter() + 60
        while len(looked) < 3:
            assert time.perf_counter() < until
            row_1D = pictures_of(1, len(sent))
            sent.add(row_1D.tobytes())
            await held.score(ScoreRequest(row_1D, [], k=1))
            await asyncio.sleep(0.001)
        assert held.drift.report()["rows"] == 3 * 16

    monkeypatch.setattr(Drift, "look", slow)
    asyncio.run(run())
    assert {len(rows_BD) for rows_BD in looked} == {16}
    for (started, ended), (after, _) in itertools.pairwise(times):
        assert after - ended > 49 * (ended - started)
    assert all(row.tobytes() in sent for rows_BD in looked for row in rows_BD)

"""What an update begins with: a grown table, rows to rehearse, feedback as rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import feedback_rows
from distributed.data.replay_buffer import RESERVOIR, fill_reservoir, replay_store
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver.new_tags import StartBy, init_new_tags
from distributed.driver.update_rows import combined
from distributed.storage.folder import Folder
from distributed.training import collectives
from distributed.training.config import TrainConfig, config_from
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from distributed.training.warm_start import NEW_ROWS, ParentBundle, grow
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig, init_embedding_rows
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.bundles import write_drel
from tests.helpers.ranks import spawn_ranks
from tests.helpers.stores import planted_table, write_planted

OLD, NEW, DIM = 11, 4, 6
MODEL = ModelConfig(
    image_hidden=8, tag_dim=5, tag_hidden=6, latent=7, tag_bias=True, normalise=True, tag_prior=0.5
)


def stepper(tags: int, seed: int) -> DRELLearner:
    torch.manual_seed(seed)
    table = ShardedTagEmbedding(tags, MODEL, TableConfig(lr=0.1), seed)
    optim = OptimConfig(optimiser="adamw", lr=0.01)
    count_T = torch.arange(1, tags + 1)
    return DRELLearner(DREL(DIM, MODEL), table, count_T, LossConfig(), PoolConfig(), optim, seed)


def train_and_write(folder: str) -> object:
    learner = stepper(OLD, 3)
    for step in range(3):
        features = torch.randn(8, DIM, generator=torch.Generator().manual_seed(step))
        tags = TagLists.from_lists([[(i + step) % OLD] for i in range(8)])
        mine = slice(
            collectives.rank() * 8 // collectives.world_size(),
            (collectives.rank() + 1) * 8 // collectives.world_size(),
        )
        learner.run(features[mine], tags[mine], epoch=0, step=step, progress=0.0, global_batch=8)
    described = learner.write(Path(folder))
    counts = learner.table.split_pool(torch.arange(OLD))[1]
    local = learner.table.local
    return (
        described,
        collectives.gather_rows(local.weight_nE, counts),
        collectives.gather_rows(local.state_n[:, None], counts),
        learner.model.state_dict(),
    )


def grow_and_gather(parent: ParentBundle) -> object:
    learner = stepper(OLD + NEW, 99)
    grow(learner, parent)
    counts = learner.table.split_pool(torch.arange(OLD + NEW))[1]
    local = learner.table.local
    return (
        collectives.gather_rows(local.weight_nE, counts),
        collectives.gather_rows(local.state_n[:, None], counts),
        learner.model.state_dict(),
    )


def test_growth_leaves_old_rows_their_state_and_scores_as_they_are(tmp_path: Path) -> None:
    """Invariant 3, from a bundle of 2 ranks, at 1, 2 and 3."""
    folder = tmp_path / "model"
    folder.mkdir()
    described, weight, state, towers = spawn_ranks(2, train_and_write, tmp_path, str(folder))[0]
    assert (state > 0).any()
    names = tuple(f"t{tag}" for tag in range(OLD))
    about = {**described, "train": {}, "image_dim": DIM}
    write_bundle(folder, "drel", Vocabulary(names, np.arange(1, OLD + 1)), about)
    parent = ParentBundle(str(folder), "v", OLD, described["table_parts"], str(tmp_path), 0)
    every = pa.array([*names, *(f"n{tag}" for tag in range(NEW))])
    init_new_tags(
        parent, every, np.ones(OLD + NEW), [], Columns(), MODEL, StartBy("random"), seed=5
    )
    expected = init_embedding_rows(torch.arange(OLD, OLD + NEW), MODEL, 5)
    for world in (1, 2, 3):
        for grown, grown_state, model in spawn_ranks(world, grow_and_gather, tmp_path, parent):
            assert torch.equal(grown[:OLD], weight)
            assert torch.equal(grown_state[:OLD], state)
            assert torch.equal(grown[OLD:], expected)
            assert not grown_state[OLD:].any()
            assert all(torch.equal(model[name], towers[name]) for name in towers)
    old = load_bundle(folder)
    larger = tmp_path / "larger"
    larger.mkdir()
    learner = stepper(OLD + NEW, 99)
    grow(learner, parent)
    learner.write(larger)
    about = {"model": learner.model.to_dict(), "table_parts": 1, "train": {}}
    counts = np.r_[np.arange(1, OLD + 1), [1] * NEW]
    write_bundle(larger, "drel", Vocabulary(tuple(every.to_pylist()), counts), about)
    features = torch.randn(9, DIM)
    # Equal inputs; a matmul of another width may round its last bit otherwise.
    torch.testing.assert_close(
        load_bundle(larger).scores(features)[:, :OLD], old.scores(features), atol=1e-6, rtol=1e-6
    )


def test_new_tags_start_near_those_they_occur_with(tmp_path: Path) -> None:
    bundle = write_drel(tmp_path / "model", names=("a", "b", "c"))
    table = pa.table(
        {
            "image_id": [str(row) for row in range(5)],
            "features": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40, np.float32)), 8),
            "tags": [["a", "x"], ["x", "b", "a"], ["y"], ["c", "y"], ["b"]],
        }
    )
    pq.write_table(table, tmp_path / "new.parquet", row_group_size=2)
    survey = survey_store(
        FeatureStore.open(str(tmp_path / "new.parquet")), "fail", statistics=False
    )
    names, count_T = pa.array(["a", "b", "c", "x", "y"]), np.array([4, 9, 16, 2, 2])
    config = ModelConfig(image_hidden=16, tag_dim=6, tag_hidden=7, latent=5)
    parent = ParentBundle(str(bundle), "v", 3, 1, str(tmp_path), 5)
    init_new_tags(
        parent, names, count_T, survey.train, Columns(), config, StartBy("co-occurring"), seed=2
    )
    found = load_file(tmp_path / NEW_ROWS)["weight"]
    old = load_file(bundle / "tag_embedding-00000-of-00001.safetensors")["weight"]
    random = init_embedding_rows(torch.arange(3, 5), config, 2)
    x = (old[0] * 2 / 2 + old[1] * 1 / 3) / (2 / 2 + 1 / 3)  # common images / root of the old count
    torch.testing.assert_close(found[0], x + random[0])
    torch.testing.assert_close(found[1], old[2] + random[1])


def surveyed(path: Path) -> StoreSurvey:
    return survey_store(FeatureStore.open(str(path)), "fail", statistics=False)


def test_the_reservoir_prefers_rows_with_rare_tags(tmp_path: Path) -> None:
    table = planted_table(400)
    tags = [["common"] if row % 20 else ["common", f"rare-{row % 60}"] for row in range(400)]
    table = table.set_column(2, "tags", pa.array(tags))
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=64)
    survey = surveyed(tmp_path / "s.parquet")
    fill_reservoir(tmp_path, survey, Columns(), 60, seed=0)
    kept = pq.read_table(tmp_path / RESERVOIR)
    assert len(kept) == 60 == len(set(kept.column("image_id").to_pylist()))
    rare = sum(len(row) == 2 for row in kept.column("tags").to_pylist())
    assert rare >= 12, "of 20 rows with rare tags; 3 if rows were drawn alike"
    by_id = dict(zip(table["image_id"].to_pylist(), table["features"].to_pylist(), strict=True))
    for image_id, features in zip(
        *(kept.column(c).to_pylist() for c in ("image_id", "features")), strict=True
    ):
        assert by_id[image_id] == features
    fill_reservoir(tmp_path, survey, Columns(), 1000, seed=0)
    assert len(pq.read_table(tmp_path / RESERVOIR)) == 400


def test_a_reservoir_of_the_reservoir_and_new_rows_is_one_of_all_rows(tmp_path: Path) -> None:
    """So that many small updates draw as one large one would."""
    whole = write_planted(tmp_path / "whole.parquet", 300, each=2)
    every = surveyed(whole)
    fill_reservoir(tmp_path, every, Columns(), 50, seed=0)
    expected = pq.read_table(tmp_path / RESERVOIR)
    table = pq.read_table(whole)
    kept = table.slice(0, 100)
    for start in range(100, 300, 50):
        union = pa.concat_tables([kept, table.slice(start, 50)])
        pq.write_table(union, tmp_path / "union.parquet")
        part = surveyed(tmp_path / "union.parquet")
        part.count_T, part.names = every.count_T, every.names
        fill_reservoir(tmp_path, part, Columns(), 50, seed=0)
        kept = pq.read_table(tmp_path / RESERVOIR).select(table.column_names)
    assert kept.column("image_id").to_pylist() == expected.column("image_id").to_pylist()
    assert kept.column("features").to_pylist() == expected.column("features").to_pylist()


def test_rehearsed_rows_leave_out_images_that_are_new_again(tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    bundle.mkdir()
    columns = Columns(image_id="key", features="vector", tags="words")
    survey = surveyed(write_planted(tmp_path / "old.parquet", 40))
    fill_reservoir(bundle, survey, Columns(), 40, seed=0)
    again = planted_table(30, first=25).rename_columns(["key", "vector", "words"])
    pq.write_table(again, tmp_path / "new.parquet")
    new = FeatureStore.open(str(tmp_path / "new.parquet"), columns)
    store = replay_store(bundle, columns, Folder(str(tmp_path)), [new])
    assert store is not None
    ids = pq.read_table(tmp_path / "replay.parquet").column("key").to_pylist()
    assert sorted(ids) == sorted(f"image-{i}" for i in range(25))
    assert replay_store(tmp_path, columns, Folder(str(tmp_path)), [new]) is None


def test_ids_and_counts_grow_at_their_end(tmp_path: Path) -> None:
    bundle = write_drel(tmp_path / "model", names=("tag-03", "zebra", "tag-01"))  # counts 1, 2, 3
    new = surveyed(write_planted(tmp_path / "new.parquet", 60, tags=5))
    replay = surveyed(write_planted(tmp_path / "replay.parquet", 20, first=500, tags=5))
    survey, repeats = combined(bundle, [new], replay, 1.0)
    assert survey.names.to_pylist() == ["tag-03", "zebra", "tag-01", "tag-00", "tag-02", "tag-04"]
    count = dict(zip(new.names.to_pylist(), new.count_T.tolist(), strict=True))
    assert survey.count_T.tolist() == [
        1 + count["tag-03"],
        2,
        3 + count["tag-01"],
        *(count[f"tag-0{t}"] for t in (0, 2, 4)),
    ]
    assert repeats == 3
    assert survey.train_rows == 60 + 3 * 20
    assert combined(bundle, [new], None, 1.0)[0].train_rows == 60


def test_feedback_adds_to_and_removes_from_what_is_known() -> None:
    said = pa.table(
        {
            "image_id": ["known", "unknown", "refused", "emptied"],
            "features": [[1.0], [2.0], [3.0], [4.0]],
            "add": [["new"], ["x", "y"], [], []],
            "remove": [["wrong"], [], ["z"], ["only"]],
        }
    )
    kept = pa.table(
        {"image_id": ["known", "emptied", "other"], "tags": [["wrong", "right"], ["only"], ["q"]]}
    )
    rows, _ = feedback_rows(said, kept, Columns(tags="words"))
    assert rows.column("image_id").to_pylist() == ["known", "unknown"]
    assert rows.column("words").to_pylist() == [["new", "right"], ["x", "y"]]
    assert not len(feedback_rows(said.slice(2, 1), None, Columns())[0])


def test_a_configuration_comes_back_from_a_bundle() -> None:
    from distributed.training.config import DataConfig

    config = TrainConfig(
        data=DataConfig(train="x", columns=Columns(tags="words")), out="o", epochs=7
    )
    config.model.latent = 33
    held = asdict(config)
    held["future"] = 1
    del held["reservoir"]
    assert config_from(TrainConfig, held) == config

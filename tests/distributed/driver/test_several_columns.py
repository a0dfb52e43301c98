"""A model of several features columns, from training over scoring to an update."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distributed.data.blocks import inline_blocks
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import append
from distributed.data.survey import survey_store
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.inference.evaluate import evaluate_store
from distributed.inference.open_for import open_for
from distributed.serving.feedback import _checked
from distributed.serving.model import ServedModel
from distributed.serving.requests import parse_annotate
from distributed.serving.schemas import NamedFeedbackRequest
from distributed.training import collectives
from distributed.training.build import build_learner
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.model_trainer import ModelTrainer
from distributed.training.optim import OptimConfig
from distributed.training.run_spec import RunSpec
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.auto import AUTO
from drel_core.bundle.format import read_info
from drel_core.bundle.info import BundleInfo, FeatureBlock
from drel_core.bundle.tensor_files import save_tensors
from drel_core.decision.kernel import KernelConfig
from drel_core.errors import InputError
from drel_core.export.export import export_bundle
from drel_core.images.backbone import load_backbone
from drel_core.images.lowlevel import Codebook, lowlevel
from drel_core.images.pictures import BadPicture
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from tests.helpers.ranks import spawn_ranks
from tests.helpers.shared_folder_io import SharedFolderIO
from tests.helpers.store_checks import fixed
from tests.helpers.stores import planted_table

DATA = Path(__file__).parents[2] / "data"


def both(rows: int = 120, first: int = 0, seed: int = 0) -> pa.Table:
    """A planted store whose features lie in two columns; those of ``low`` are never negative."""
    table = planted_table(rows, first=first, seed=seed)
    value_BD = np.stack(table["features"].to_numpy(zero_copy_only=False))
    low = np.abs(value_BD[:, 10:]) * 50
    columns = {"deep": fixed(value_BD[:, :10]), "low": fixed(low)}
    return (
        table.drop_columns(["features"])
        .add_column(1, "deep", columns["deep"])
        .append_column("low", columns["low"])
    )


def joined(table: pa.Table) -> pa.Table:
    parts = [np.stack(table[name].to_numpy(zero_copy_only=False)) for name in ("deep", "low")]
    return table.select(["image_id", "tags"]).append_column(
        "features", fixed(np.concatenate(parts, axis=1))
    )


def learn(
    folder: Path, name: str, table: pa.Table, columns: Columns, power: float = 1.0, **options: Any
) -> Path:
    pq.write_table(table, folder / f"{name}.parquet")
    config = TrainConfig(
        data=DataConfig(train=str(folder / f"{name}.parquet"), columns=columns),
        out=str(folder / name),
        epochs=3,
        batch_size=32,
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8, power=power),
        table=TableConfig(lr=0.05),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
        **options,
    )
    train.run(config, lambda line: None, launcher=launch)
    return folder / name / "model"


@pytest.mark.parametrize("method", ["drel", "wsabie", "knn", "popularity"])
def test_two_columns_train_what_one_concatenated_by_hand_trains(
    tmp_path: Path, method: Any
) -> None:
    columns = Columns(features="deep,low")
    two = learn(tmp_path, "two", both(), columns, method=method)
    one = learn(tmp_path, "one", joined(both()), Columns(), method=method)
    info = read_info(two)
    assert info.blocks == (FeatureBlock("deep", 10), FeatureBlock("low", 6))
    assert read_info(one).blocks == (FeatureBlock("features", 16),)
    assert info.version == read_info(one).version  # a hash of all tensors


def test_the_root_is_decided_for_each_column(tmp_path: Path) -> None:
    columns = Columns(features="deep,low")
    model = learn(tmp_path, "two", both(), columns, power=AUTO)
    trained = load_bundle(model)
    assert isinstance(trained, DRELAnnotator)
    assert [tuple(b) for b in trained.model.config.power_blocks] == [(10, 1.0), (6, 0.5)]
    value_BD = torch.from_numpy(np.stack(joined(both())["features"].to_numpy(zero_copy_only=False)))
    given_BD = trained.model.standardised(value_BD)
    torch.testing.assert_close(given_BD.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(given_BD.std(0, correction=0), torch.ones(16), atol=1e-4, rtol=0)
    root_Bd = value_BD[:, 10:].sqrt()
    expected_Bd = (root_Bd - root_Bd.mean(0)) / root_Bd.std(0, correction=0)
    torch.testing.assert_close(given_BD[:, 10:], expected_Bd, atol=1e-4, rtol=1e-4)


def test_a_model_reads_its_columns_of_other_stores(tmp_path: Path) -> None:
    model = learn(tmp_path, "two", both(), Columns(features="deep,low"))
    pq.write_table(both(40, first=500, seed=3), tmp_path / "new.parquet")
    opened = open_for(str(model), str(tmp_path / "new.parquet"), Columns())
    assert opened.store.columns.blocks == ("deep", "low") and opened.store.dims == (10, 6)
    annotator = load_bundle(model)
    survey = survey_store(opened.store, "fail", statistics=False)
    found = evaluate_store(annotator, annotator.vocabulary, survey, opened.store.columns)
    pq.write_table(joined(both(40, first=500, seed=3)), tmp_path / "one.parquet")
    store = FeatureStore.open(str(tmp_path / "one.parquet"))
    survey = survey_store(store, "fail", statistics=False)
    expected = evaluate_store(annotator, annotator.vocabulary, survey, store.columns)
    assert found["F1"] == expected["F1"] and found["mAP"] == expected["mAP"]
    pq.write_table(both().drop_columns(["low"]), tmp_path / "half.parquet")
    with pytest.raises(InputError, match="no column 'low'"):
        open_for(str(model), str(tmp_path / "half.parquet"), Columns())
    with pytest.raises(InputError, match="the model takes deep"):
        open_for(str(model), str(tmp_path / "new.parquet"), Columns(features="low,deep"))


def test_a_single_column_of_another_name_is_found_by_either(tmp_path: Path) -> None:
    table = planted_table(80)
    renamed = table.rename_columns(["image_id", "deep", "tags"])
    model = learn(tmp_path, "one", renamed, Columns(features="deep"))
    pq.write_table(table, tmp_path / "usual.parquet")
    for path, name in (
        (tmp_path / "one.parquet", "deep"),
        (tmp_path / "usual.parquet", "features"),
    ):
        assert open_for(str(model), str(path), Columns()).store.columns.features == name


def test_an_update_rehearses_in_the_columns_of_the_model(tmp_path: Path) -> None:
    learn(tmp_path, "two", both(), Columns(features="deep,low"), power=AUTO)
    learn(tmp_path, "one", joined(both()), Columns(), power=0.5)
    more = both(40, first=500, seed=3)
    for name, table in (("two", more), ("one", joined(more))):
        pq.write_table(table, tmp_path / f"{name}-new.parquet")
        config = UpdateConfig(
            model=str(tmp_path / name),
            out=str(tmp_path / f"{name}-2"),
            data=UpdateData(new=str(tmp_path / f"{name}-new.parquet")),
            epochs=1,
        )
        lines: list[str] = []
        update.run(config, lines.append, launcher=launch)
        assert any("rehearses" in line for line in lines)
        info = read_info(tmp_path / f"{name}-2" / "model")
        assert [block.dim for block in info.blocks] == ([10, 6] if name == "two" else [16])


def test_older_bundles_have_the_column_of_their_configuration() -> None:
    for bundle in sorted(path.parent for path in DATA.glob("bundle-*/**/config.json")):
        info = read_info(bundle)
        if info.pictures is None:
            (block,) = info.blocks
            assert block == FeatureBlock("features", info.image_dim), bundle
    named = {"image_dim": 4, "config": {"data": {"columns": {"features": "deep"}}}}
    assert BundleInfo.of({"method": "svm", **named}).blocks == (FeatureBlock("deep", 4),)


@pytest.mark.parametrize(
    "columns",
    [
        [{"name": "a", "dim": 4}],
        [{"name": "a", "dim": 8}, {"name": "a", "dim": 8}],
        [{"name": 3, "dim": 16}],
        [{"name": "a", "dim": True}, {"name": "b", "dim": 15}],
        ["a"],
        {"a": 16},
    ],
)
def test_columns_that_make_no_sense_are_a_damaged_bundle(tmp_path: Path, columns: Any) -> None:
    model = learn(tmp_path, "one", planted_table(40), Columns(), method="popularity")
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**content, "columns": columns}))
    with pytest.raises(InputError, match=r"damaged \(config.json: columns\)"):
        read_info(model)


def test_the_export_scores_columns_as_the_model_does(tmp_path: Path) -> None:
    model = learn(
        tmp_path,
        "two",
        both(),
        Columns(features="deep,low"),
        power=AUTO,
        kernel=KernelConfig(landmarks=50, dims=8),
    )
    shares = read_info(model).train["kernel_shares"]
    assert list(shares) == ["deep", "low"] and sum(shares.values()) == pytest.approx(1)
    export_bundle(model, tmp_path / "out", "torch")
    value_BD = np.stack(joined(both(8, seed=4))["features"].to_numpy(zero_copy_only=False))
    np.save(tmp_path / "features.npy", value_BD)
    command = [sys.executable, "examples/annotate.py", str(tmp_path / "features.npy"), "3"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    annotator = load_bundle(model)
    score_Bk, tag_Bk = annotator.annotate(torch.from_numpy(value_BD), 3)
    for line, scores, tags in zip(done.stdout.splitlines(), score_Bk, tag_Bk, strict=True):
        said = json.loads(line)
        assert [name for name, _ in said] == [annotator.vocabulary.names[t] for t in tags]
        np.testing.assert_allclose([score for _, score in said], scores, atol=2e-5)
    described = json.loads((tmp_path / "out" / "model.json").read_text())
    assert described["columns"] == [{"name": "deep", "D": 10}, {"name": "low", "D": 6}]
    assert "`deep` [10], `low` [6]" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [1.0]])
def test_shares_are_one_a_column(tmp_path: Path, shares: list[float]) -> None:
    kernel = KernelConfig(landmarks=10, shares=shares)
    with pytest.raises(InputError, match="for 2 features columns"):
        learn(tmp_path, "two", both(), Columns(features="deep,low"), kernel=kernel)


def test_a_scorer_takes_rows_by_column_and_feedback_becomes_rows_of_the_columns(
    tmp_path: Path,
) -> None:
    learn(tmp_path, "two", both(), Columns(features="deep,low"))
    served = ServedModel(str(tmp_path / "two"))
    assert [(block.name, block.dim) for block in served.blocks] == [("deep", 10), ("low", 6)]
    table = both(3, first=900)
    parts = [np.stack(table[name].to_numpy(zero_copy_only=False)) for name in ("deep", "low")]
    features = {"deep": parts[0].tolist(), "low": parts[1].tolist()}
    asked = parse_annotate(json.dumps({"features": features}).encode(), 16, 8, blocks=served.blocks)
    assert asked.features_BD is not None
    np.testing.assert_array_equal(asked.features_BD, np.concatenate(parts, axis=1))
    for row in range(3):
        named = {name: part[row] for name, part in features.items()}
        said = NamedFeedbackRequest(image_id=f"told-{row}", features=named, add=["tag-00", "new"])
        keep(tmp_path / "feedback", served, said)
    config = UpdateConfig(
        model=str(tmp_path / "two"),
        out=str(tmp_path / "two-2"),
        from_feedback=str(tmp_path / "feedback"),
        data=UpdateData(test=str(tmp_path / "two.parquet")),
        epochs=1,
    )
    scores = update.run(config, lambda line: None, launcher=launch)
    assert (
        scores is not None and "new" in load_bundle(tmp_path / "two-2" / "model").vocabulary.names
    )
    stored = FeatureStore.open(
        str(tmp_path / "two-2" / "feedback.parquet"), Columns(features="deep,low")
    )
    assert stored.dims == (10, 6)


def keep(folder: Path, served: ServedModel, said: NamedFeedbackRequest) -> None:
    append(str(folder), [_checked(said, served)])


def test_a_scorer_makes_all_columns_of_a_picture(tmp_path: Path) -> None:
    backbone = load_backbone("efficientnet-lite0")
    generator = np.random.default_rng(0)
    codebook = Codebook(generator.random((6, 128), dtype=np.float32) * 100)
    pictures = [
        Image.fromarray(generator.integers(0, 255, (8, 10, 3), dtype=np.uint8)).resize((60, 48))
        for _ in range(12)
    ]
    deep_BD = backbone(backbone.preprocessing.squares(pictures, lambda picture: picture))
    low_BD = np.stack([lowlevel(np.asarray(picture), codebook) for picture in pictures])
    made = planted_table(12)
    table = pa.table(
        {
            "image_id": made["image_id"],
            "lowlevel": fixed(low_BD),
            "cnn": fixed(deep_BD),
            "tags": made["tags"],
        }
    )
    about = {
        "cnn": {"kind": "cnn", **backbone.describe()},
        "lowlevel": {"kind": "lowlevel", "codebook_sha256": codebook.sha256},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"features": {"columns": about}}))
    codebook.save(tmp_path / "codebook.npz")
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    for columns in ("cnn,lowlevel", "lowlevel"):
        name = columns.replace(",", "-")
        model = learn(tmp_path, name, table, Columns(features=columns), method="wsabie")
        served = ServedModel(str(model))
        expected = np.concatenate([deep_BD, low_BD], axis=1) if "," in columns else low_BD
        assert served.takes_images
        np.testing.assert_allclose(served.features_of(encoded), expected, atol=2e-4, rtol=1e-3)
        with pytest.raises(BadPicture) as caught:
            served.features_of([encoded[0], b"no picture"])
        assert caught.value.index == 1
    (tmp_path / "codebook.npz").unlink()
    model = learn(tmp_path, "without", table, Columns(features="cnn,lowlevel"), method="wsabie")
    assert not ServedModel(str(model)).takes_images
    save_tensors({"word_K128": torch.zeros(6, 128)}, model / "codebook.safetensors")
    with pytest.raises(InputError, match=r"damaged \(codebook.safetensors\)"):
        ServedModel(str(model))
    Codebook(codebook.word_K128 + 1).save(tmp_path / "codebook.npz")
    with pytest.raises(InputError, match=r"not the codebook that manifest\.json names"):
        learn(tmp_path, "other", table, Columns(features="cnn,lowlevel"), method="wsabie")


def trained_on_ranks(folder: str) -> list[float] | None:
    """Shares and, of the first rank, some scores of a model that these ranks train together."""
    columns, out = Columns(features="deep,low"), Path(folder) / str(collectives.world_size())
    store = FeatureStore.open(f"{folder}/train.parquet", columns)
    powers = [(10, 1.0), (6, 0.5)]
    config = TrainConfig(
        data=DataConfig(train=store.path, columns=columns),
        out=str(out),
        epochs=3,
        batch_size=32,
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8, power_blocks=powers),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
        kernel=KernelConfig(landmarks=80, dims=6),
    )
    survey = survey_store(store, "fail", power=train.power_of(config.model))
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={})
    learner = build_learner(spec, torch.device("cpu"))
    out.mkdir(exist_ok=True)
    blocks = inline_blocks(columns, survey.names)
    ModelTrainer(spec, learner, blocks, SharedFolderIO(out / "kept")).run()
    if collectives.rank():
        return None
    annotator = load_bundle(out / "model")
    value_BD = np.stack(joined(both(20, seed=8))["features"].to_numpy(zero_copy_only=False))
    shares = annotator.info.train["kernel_shares"]
    return [*shares.values(), *annotator.scores(torch.from_numpy(value_BD)).flatten().tolist()]


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    pq.write_table(both(), tmp_path / "train.parquet", row_group_size=25)
    one, (two, _) = (
        spawn_ranks(world, trained_on_ranks, tmp_path, str(tmp_path)) for world in (1, 2)
    )
    assert two[:2] == one[0][:2] and sum(two[:2]) == pytest.approx(1)
    np.testing.assert_allclose(two, one[0], atol=0.05)  # each rank has an order of rows of its own
    assert np.std(one[0][2:]) > 0.1

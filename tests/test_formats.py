"""Files that earlier code wrote (tests/data, README.md there) load, and give what they gave then."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles.open import open_annotator
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver import update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.serving.model import ServedModel
from distributed.training import checkpoint
from distributed.training.build import build_drel_learner
from distributed.training.config import TrainConfig, config_from
from drel_core.annotators.base import TrainedAnnotator, choose, decision_of
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import content_version
from drel_core.decision.decider import DECISION, Decide
from drel_core.decision.kernel import KERNEL
from drel_core.errors import InputError
from drel_core.export.export import export_bundle
from drel_core.images.backbone import TRUSTED
from drel_core.scoring.tag_lists import TagLists

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
BUNDLES = sorted(place.name for place in DATA.glob("bundle-*"))


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle of a network names ``file:tests/data/network.pt``, from where it was trained."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(TRUSTED, "file:tests/data/network.pt")


def expected_of(name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((DATA / name / "expected.json").read_text("utf-8"))
    return held


def stored_rows() -> tuple[torch.Tensor, list[list[str]]]:
    """Features ``[8, D]`` and tags of the store's first images."""
    table = pq.read_table(DATA / "store.parquet").slice(0, 8)
    features = np.stack(table["features"].to_numpy(zero_copy_only=False))
    return torch.from_numpy(features), table["tags"].to_pylist()


def images_for(image_dim: int) -> torch.Tensor:
    """What the scores were recorded of: the store's first images, or pixels."""
    if image_dim > 100:
        return (torch.arange(4 * image_dim) * 37 % 251).reshape(4, image_dim).float()
    return stored_rows()[0]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-6, atol=1e-6)


def as_then(annotator: TrainedAnnotator, score: Any, tag: Any) -> np.ndarray:
    """Scores as the writer of a bundle gave them: those of a decision rule were utilities, which what is
    called ``macro`` now still goes by."""
    if annotator.decider is None:
        return np.asarray(score)
    gain, offset = annotator.decider.gain_T.numpy(), annotator.decider.offset_T.numpy()
    return np.asarray(gain[tag] * np.asarray(score) + offset[tag])


def test_there_is_a_bundle_of_every_kind() -> None:
    kinds = ["cnn", "drel", "first", "knn", "plain", "popularity", "svm", "wsabie"]
    assert [f"bundle-{kind}" for kind in kinds] == BUNDLES
    folder = DATA / "bundle-drel" / "model"
    assert all((folder / name).is_file() for name in (KERNEL, DECISION, "reservoir.parquet"))
    assert not (DATA / "bundle-plain" / "model" / KERNEL).exists()


@pytest.mark.parametrize("name", BUNDLES)
def test_an_older_bundle_gives_the_scores_it_gave(name: str) -> None:
    folder, expected = DATA / name / "model", expected_of(name)
    for annotator in (load_bundle(folder), open_annotator(str(folder))):
        images_BD = images_for(annotator.image_dim)
        every = np.arange(annotator.num_tags)
        close(as_then(annotator, annotator.scores(images_BD), every), expected["scores"])
        how: Decide = "top" if annotator.decider is None else "macro"
        found = choose(annotator, images_BD, 3, decision_of(annotator, how))
        score_Bk = as_then(annotator, found.probability_Bk, found.tag_Bk.numpy())
        order_Bk = np.argsort(-score_Bk, axis=1, kind="stable")
        close(np.take_along_axis(score_Bk, order_Bk, 1), expected["best_scores"])
        tag_Bk = np.take_along_axis(found.tag_Bk.numpy(), order_Bk, 1)
        assert tag_Bk.tolist() == expected["best_tags"]
    if name != "bundle-first":  # whose version is a hash of fewer files
        assert content_version(folder) == expected["version"]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_scorer_serves_an_older_bundle(name: str) -> None:
    expected = expected_of(name)
    model = ServedModel(str(DATA / name / "model"))
    assert model.version == expected["version"]
    images_BD = images_for(model.image_dim)
    found = model.best(images_BD.numpy(), 3)
    score_Bk, tag_Bk = load_bundle(DATA / name / "model").annotate(images_BD, 3)
    close(found.score_Bk, score_Bk)
    assert found.tag_Bk.tolist() == tag_Bk.tolist()
    if name != "bundle-drel":  # whose scores were utilities
        close(found.score_Bk, expected["best_scores"])
        assert found.tag_Bk.tolist() == expected["best_tags"]
    assert len(model.examples(5)) == (5 if name == "bundle-drel" else 0)


@pytest.mark.parametrize("name", BUNDLES)
def test_an_older_bundle_is_exported_or_refused_as_then(name: str, tmp_path: Path) -> None:
    folder, expected = DATA / name / "model", expected_of(name)
    refused = {"bundle-knn": "kNN cannot be exported", "bundle-cnn": "TorchScript files cannot"}
    if name in refused:
        with pytest.raises(InputError, match=refused[name]):
            export_bundle(folder, tmp_path / "out", "torch")
        return
    described = export_bundle(folder, tmp_path / "out", "torch")
    assert described["version"] == expected["version"]
    spec = importlib.util.spec_from_file_location(
        "example", tmp_path / "out" / "examples" / "annotate.py"
    )
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found_names, found_scores = example.annotate(stored_rows()[0].numpy(), 3)
    annotator = load_bundle(folder)
    score_Bk, tag_Bk = annotator.annotate(stored_rows()[0], 3)
    vocabulary = np.array(annotator.vocabulary.names)
    assert found_names.tolist() == vocabulary[tag_Bk.numpy()].tolist()
    np.testing.assert_allclose(found_scores, score_Bk, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bundle-drel", "bundle-plain", "bundle-wsabie", "bundle-first"])
def test_an_older_bundle_is_updated_or_refused_as_then(name: str, tmp_path: Path) -> None:
    table = pq.read_table(DATA / "store.parquet").slice(0, 40)
    tags = [[*row, "a new one"] for row in table["tags"].to_pylist()]
    place = table.schema.get_field_index("tags")
    pq.write_table(table.set_column(place, "tags", pa.array(tags)), tmp_path / "new.parquet")
    config = UpdateConfig(
        model=str(DATA / name),
        out=str(tmp_path / "out"),
        data=UpdateData(new=str(tmp_path / "new.parquet")),
    )
    lines: list[str] = []
    if name == "bundle-first":
        with pytest.raises(InputError, match="keeps no optimiser state"):
            update.run(config, lines.append, launcher=launch)
        return
    update.run(config, lines.append, launcher=launch)
    found = load_bundle(tmp_path / "out" / "model")
    assert found.vocabulary.names[-1] == "a new one" and found.num_tags == 8
    (known,) = re.findall(r"rehearses \d+ of (\d+) older images", "\n".join(lines))
    assert 90 < int(known) < 130, "of 120, which the bundle does not say: from its tags' counts"


def test_training_goes_on_from_a_checkpoint_of_format_2() -> None:
    """Written by two ranks in the middle of an epoch, read by one."""
    expected, folder = expected_of("checkpoint-2"), DATA / "checkpoint-2" / "checkpoint"
    config = config_from(TrainConfig, expected["config"])
    survey = survey_store(FeatureStore.open(str(DATA / "store.parquet")), "fail")
    learner = build_drel_learner(config, survey, torch.device("cpu"))
    learner.model.train()
    fingerprint = json.loads((folder / "drel.json").read_text("utf-8"))["fingerprint"]
    cursor = checkpoint.load(folder, learner, fingerprint)
    assert (cursor.epoch, cursor.step) == (expected["epoch"], expected["step"]) == (1, 7)
    assert [(one.first_step, one.world) for one in cursor.readings] == [(0, 2)]
    features_BD, names = stored_rows()
    place = {name: tag for tag, name in enumerate(survey.names.to_pylist())}
    tags = TagLists.from_lists([[place[name] for name in row] for row in names])
    for step, loss in enumerate(expected["losses"], cursor.step):
        result = learner.run(
            features_BD, tags, epoch=cursor.epoch, step=step, progress=0.5, global_batch=8
        )
        close(float(result.stats.loss / result.stats.weight), loss)
    close(learner.table.local.weight_nE, expected["tag_rows"])


def test_a_checkpoint_of_format_1_is_refused_in_one_line() -> None:
    """Its cursor does not say how ranks shared the rows of the epoch."""
    folder = DATA / "checkpoint-1" / "checkpoint"
    survey = survey_store(FeatureStore.open(str(DATA / "store.parquet")), "fail")
    config = config_from(TrainConfig, expected_of("checkpoint-2")["config"])
    learner = build_drel_learner(config, survey, torch.device("cpu"))
    with pytest.raises(InputError) as refused:
        checkpoint.load(folder, learner, {})
    assert str(refused.value) == f"{folder}: checkpoint format 1; this version reads 2"

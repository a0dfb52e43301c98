"""What an evaluation keeps of its images equals a look at each of them, however the store is cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import StoreSurvey, survey_store
from distributed.inference import evaluate
from distributed.inference.close_look import CloseLook, SeenImage, spread_rows
from distributed.inference.evaluate import evaluate_closely, evaluate_store, frequency_class
from distributed.reporting.facts import share_of_training
from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.load import load_bundle
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.stores import planted_table


@pytest.fixture(scope="module")
def annotator(tmp_path_factory: pytest.TempPathFactory) -> TrainedAnnotator:
    folder = write_drel(
        tmp_path_factory.mktemp("model") / "v1", dim=16, decider=random_decider(12), images=40
    )
    return load_bundle(folder)


def survey_of(path: Path, row_group: int = 64) -> StoreSurvey:
    pq.write_table(planted_table(150), path, row_group_size=row_group)
    return survey_store(FeatureStore.open(str(path)), "fail", statistics=False)


def look_at(annotator: TrainedAnnotator, survey: StoreSurvey, samples: int = 7) -> CloseLook:
    share_T = share_of_training(annotator.vocabulary, annotator.info)
    look = CloseLook(spread_rows(survey.train, samples), 5, share_T)
    evaluate_closely(annotator, annotator.vocabulary, survey, Columns(), k=3, look=look)
    return look


def rows_of(images: list[SeenImage]) -> list[int]:
    return [image.place.file_row for image in images]


def test_faults_are_those_that_a_look_at_each_image_finds(
    annotator: TrainedAnnotator, tmp_path: Path
) -> None:
    look = look_at(annotator, survey_of(tmp_path / "store.parquet"))
    table = planted_table(150)
    score_NT = annotator.scores(torch.tensor(table["features"].to_pylist()))
    share_T = share_of_training(annotator.vocabulary, annotator.info).tolist()
    wrong, missed = [], []
    for row, names in enumerate(table["tags"].to_pylist()):
        true = {annotator.vocabulary.names.index(name) for name in names}
        scores = dict(enumerate(score_NT[row].tolist()))
        tag = max(set(scores) - true, key=lambda tag: scores[tag])
        wrong.append((-scores[tag], row, tag))
        said = sorted(scores, key=lambda tag: -scores[tag])[:3]
        ratio = {tag: scores[tag] / share_T[tag] for tag in true - set(said)}
        if ratio:
            tag = min(ratio, key=lambda tag: ratio[tag])
            missed.append((ratio[tag], row, tag))
    for kept, naive in ((look.wrong, wrong), (look.missed, missed)):
        expected = [(row, tag) for _, row, tag in sorted(naive)][: len(kept)]
        assert [(r.place.file_row, r.doubt.tag) for r in kept if r.doubt] == expected
        assert len(kept) == 30
    for image in look.sample:
        true = {said.tag for said in image.true}
        names = table["tags"][image.place.file_row].as_py()
        assert {annotator.vocabulary.names[tag] for tag in true} == set(names)
        for said in (*image.said, *image.true):
            expected_score = float(score_NT[image.place.file_row, said.tag])
            assert said.score == pytest.approx(expected_score, abs=1e-6) and not said.bound
    # Of one tag there are two, as long as there are others.
    kept_tags, tags = (
        Counter(image.doubt.tag for image in images if image.doubt)
        for images in (look.wrong, look.most_wrong())
    )
    possible = sum(min(2, count) for count in kept_tags.values())
    assert possible < 5 == tags.total()
    assert sum(min(2, count) for count in tags.values()) == possible


def test_it_is_the_same_however_the_store_is_cut(
    annotator: TrainedAnnotator, tmp_path: Path
) -> None:
    looks = [
        look_at(annotator, survey_of(tmp_path / f"{size}.parquet", size)) for size in (150, 64, 7)
    ]
    sample = rows_of(looks[0].sample)
    assert sample == [0, 25, 50, 74, 99, 124, 149]
    for look in looks[1:]:
        assert rows_of(look.sample) == sample
        assert rows_of(look.wrong) == rows_of(looks[0].wrong)
        assert rows_of(look.missed) == rows_of(looks[0].missed)


def test_a_tag_below_the_best_has_a_bound(
    annotator: TrainedAnnotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many tags only the best are scored."""
    from distributed.inference.scored import Scored

    whole = survey_of(tmp_path / "store.parquet")
    score_NT = annotator.scores(torch.tensor(planted_table(150)["features"].to_pylist()))

    def best_only(model: TrainedAnnotator, features_BD: torch.Tensor, k: int, _: bool) -> Scored:
        plain = model.annotate(features_BD, 4)
        return Scored(None, *plain, plain, lambda rows, depth: plain)

    monkeypatch.setattr(evaluate.Scored, "of", staticmethod(best_only))
    look = look_at(annotator, whole, samples=150)
    bounds = [
        (image.place.file_row, said) for image in look.sample for said in image.true if said.bound
    ]
    assert len(bounds) > 20
    for row, said in bounds:
        assert score_NT[row, said.tag] <= said.score + 1e-6
        assert (score_NT[row] > score_NT[row, said.tag]).sum() >= 4


def test_looking_changes_no_figure(annotator: TrainedAnnotator, tmp_path: Path) -> None:
    survey = survey_of(tmp_path / "store.parquet")
    plain = evaluate_store(annotator, annotator.vocabulary, survey, Columns(), 3)
    look = CloseLook(spread_rows(survey.train, 9), 5, None)
    found = evaluate_closely(annotator, annotator.vocabulary, survey, Columns(), 3, look=look)
    for metrics in (plain, found.metrics):
        del metrics["score"]
    assert plain == found.metrics
    of_tags = found.top.average_precision_T()
    assert of_tags is not None and float(of_tags.mean()) == pytest.approx(plain["mAP"])
    pairs = sum(row["pairs"] for row in plain["reliability"])
    assert int(found.reliability_cb2[:, 51:, 0].sum()) == pytest.approx(pairs, abs=60)
    # The vocabulary of the test has 1 to 12 images a tag: the first two classes of frequency.
    assert int(found.reliability_cb2[2:].sum()) == 0 < int(found.reliability_cb2[1].sum())


def test_classes_of_frequency() -> None:
    found = frequency_class(np.array([0, 1, 9, 10, 99, 100, 999, 1000, 10**6]))
    assert found.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]

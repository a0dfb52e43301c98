"""A bundle answers alike wherever it is asked: in batches, at the scorer, in an evaluation, as an export."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.inference import evaluate
from distributed.inference.annotate_part import AnnotatePlan, PartAnnotator
from distributed.inference.close_look import CloseLook, spread_rows
from distributed.inference.evaluate import evaluate_closely
from distributed.serving.model import ServedModel
from distributed.serving.requests import ScoreRequest
from distributed.serving.scoring import Scored, score_requests
from drel_core.annotators.base import DenseScores, TrainedAnnotator, row_by_row, rules_of
from drel_core.annotators.load import load_bundle
from drel_core.bundle.tag_rules import TagGroup, TagRules
from drel_core.decision.cuts import DEPTH
from drel_core.decision.decider import Decide
from drel_core.errors import InputError
from drel_core.export.export import export_bundle
from tests.helpers.bundles import random_decider, write_drel

DIM, ROWS = 8, 24
Answers = list[dict[str, float]]


def tag(*places: int) -> tuple[str, ...]:
    return tuple(f"tag-{place:02d}" for place in places)


IMPLIES = {"tag-03": tag(4, 5), "tag-05": tag(6), "tag-31": tag(4), "tag-60": tag(61)}
RULES = {
    "none": TagRules(),
    "implied": TagRules(implies=IMPLIES),
    "hidden": TagRules({"tag-00": "tag-07", "Haus": "tag-01"}, blocked=tag(*range(8, 30))),
    # So many of one group that most of the best tags fall out of an answer.
    "groups": TagRules(
        implies=IMPLIES, groups={"season": TagGroup(tag(*range(7, 60), *range(62, 80)), 1)}
    ),
    "needs a group": TagRules(
        implies=dict.fromkeys(tag(*range(10, 80)), tag(4)),
        groups={"few": TagGroup(tag(4, *range(80, 90)), 1)},
        split={"tag-09": tag(5, 6)},
    ),
}
SMALL = TagRules(implies={"tag-03": tag(4)}, groups={"pair": TagGroup(tag(2, 4, 5), 1)})


def features() -> np.ndarray:
    """Rows as usual and far away, where probabilities are 0 or 1; zero, constant and equal ones."""
    features_BD = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    features_BD[10:16] *= 40
    features_BD[0], features_BD[1], features_BD[2] = 0, 1, features_BD[3]
    return features_BD


@dataclass
class Asked:
    """A bundle, wherever it is asked about the same rows."""

    folder: Path
    features_BD: np.ndarray

    def __post_init__(self) -> None:
        self.annotator: TrainedAnnotator = load_bundle(self.folder)
        self.served = ServedModel(str(self.folder))
        flat = pa.FixedSizeListArray.from_arrays(pa.array(self.features_BD.ravel()), DIM)
        ids = [f"image {row}" for row in range(len(self.features_BD))]
        table = pa.table({"image_id": ids, "features": flat, "tags": [["tag-01"]] * len(ids)})
        path = self.folder.parent / "store.parquet"
        pq.write_table(table, path, row_group_size=16)
        self.store = FeatureStore.open(str(path))

    def in_batches(self, k: int, decide: Decide) -> Answers:
        plan = AnnotatePlan(str(self.folder), "", Columns(), (DIM,), k, None, decide, None, "fail")
        part = PartAnnotator(plan, self.annotator)
        table = pa.concat_tables([part.annotate(unit)[0] for unit in self.store.units])
        rows = zip(table["tags"].to_pylist(), table["scores"].to_pylist(), strict=True)
        return [dict(zip(*row, strict=True)) for row in rows]

    def at_the_scorer(self, k: int, decide: Decide, rows: slice = slice(None)) -> Answers:
        """Beside a request that needs a deeper list."""
        asked = [
            ScoreRequest(k=k, decide=decide, features_BD=self.features_BD[rows], pictures=[])
            for k, decide in ((k, decide), *([(90, decide)] if rows == slice(None) else []))
        ]
        scored = score_requests(self.served, asked)[0]
        assert isinstance(scored, Scored)
        keep_Bk = np.ones_like(scored.tag_Bk, bool) if scored.keep_Bk is None else scored.keep_Bk
        return [
            dict(zip(self.served.names[tags[keep]], scores[keep].tolist(), strict=True))
            for tags, scores, keep in zip(scored.tag_Bk, scored.score_Bk, keep_Bk, strict=True)
        ]

    def one_by_one(self, k: int, decide: Decide) -> Answers:
        rows = [slice(row, row + 1) for row in range(len(self.features_BD))]
        return [self.at_the_scorer(k, decide, row)[0] for row in rows]

    def in_an_evaluation(self, k: int, decide: Decide) -> Answers:
        survey = survey_store(self.store, "fail", statistics=False, rules=rules_of(self.annotator))
        look = CloseLook(spread_rows(survey.train, len(self.features_BD)), 1, None)
        vocabulary = self.annotator.vocabulary
        evaluate_closely(self.annotator, vocabulary, survey, Columns(), k, decide, look=look)
        return [{vocabulary.names[t]: p for t, p, _ in image.said} for image in look.sample]


def exported(folder: Path, features_BD: np.ndarray, k: int) -> Answers:
    """By the example of an export."""
    if not (folder.parent / "out").exists():
        export_bundle(folder, folder.parent / "out", "torch")
    path = folder.parent / "out" / "examples" / "annotate.py"
    spec = importlib.util.spec_from_file_location("annotate", path)
    assert spec is not None and spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    before = [*sys.path]
    try:
        spec.loader.exec_module(example)
    finally:
        sys.path[:] = before
        sys.modules.pop("rules", None)
    names, scores = example.annotate(features_BD, k)
    return [
        {name: p for name, p in zip(*row, strict=True) if name}
        for row in zip(names.tolist(), scores.tolist(), strict=True)
    ]


def check_same(answers: Answers, others: Answers, where: str) -> None:
    for row, (one, other) in enumerate(zip(answers, others, strict=True)):
        assert list(one) == list(other), (where, row)
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6), (where, row)


@pytest.mark.parametrize(
    ("rules", "decides", "method"),
    [
        *((name, True, "drel") for name in RULES),
        ("groups", False, "drel"),
        ("needs a group", False, "wsabie"),
        ("none", False, "wsabie"),
    ],
)
def test_all_paths_give_the_same_tags(
    tmp_path: Path, rules: str, decides: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_SPEED_SECONDS", 0.0)
    folder = tmp_path / "model"
    decider = random_decider(90) if decides else None
    write_drel(folder, DIM, 90, decider=decider, method=method, unseen=(40, 60))
    (folder / "vocabulary.yaml").write_text(RULES[rules].to_yaml(), encoding="utf-8")
    asked = Asked(folder, features())
    decisions: list[Decide] = ["top", "macro", "threshold"] if decides else ["top"]
    for decide in decisions:
        for k in (1, 5, DEPTH):
            answers = asked.in_batches(k, decide)
            check_same(answers, asked.at_the_scorer(k, decide), f"{decide} {k}: scorer")
            if k == 5:
                check_same(answers, asked.one_by_one(k, decide), f"{decide} {k}: one by one")
            if k == DEPTH or decide != "threshold":  # whose figures are of all tags that pass
                found = asked.in_an_evaluation(k, decide)
                check_same(answers, found, f"{decide} {k}: evaluation")
            if decide == "top":
                check_same(answers, exported(folder, features(), k), f"{k}: export")


def test_rules_may_leave_some_images_fewer_tags(tmp_path: Path) -> None:
    """Also where they are scored in several batches."""
    folder = write_drel(tmp_path / "model", DIM, 6, decider=random_decider(6))
    (folder / "vocabulary.yaml").write_text(SMALL.to_yaml(), encoding="utf-8")
    # Of the first batch all images are alike and have three tags, of the second some have four.
    features_BD = features()
    few = [len(said) for said in Asked(folder, features_BD).at_the_scorer(6, "top")]
    assert set(few) == {3, 4}
    features_BD = np.concatenate([features_BD[[few.index(3)] * 1024], features_BD])
    asked = Asked(folder, features_BD)
    answers = asked.in_batches(6, "top")
    assert {len(said) for said in answers[:1024]} == {3}
    check_same(answers[1024:], asked.at_the_scorer(6, "top")[1024:], "scorer")
    check_same(answers[1024:], exported(folder, features_BD[1024:], 6), "export")


class Overflowing(DenseScores):
    """Scores of four tags that become infinite, where others would be NaN."""

    name, num_tags = "overflowing", 4

    def plain_scores(self, features_BD: torch.Tensor) -> torch.Tensor:
        return features_BD[:, :4] * 1e30

    log_scores = plain_scores


def test_rows_that_annotate_refuses_count_in_no_figure(tmp_path: Path) -> None:
    features_BD = np.ones((3, DIM), np.float32)
    features_BD[1, 2] = 1e20
    asked = Asked(write_drel(tmp_path / "model", DIM, 4), features_BD)
    _, bad_B = row_by_row(Overflowing().annotate, torch.from_numpy(features_BD))
    assert bad_B.tolist() == [False, True, False]
    survey = survey_store(asked.store, "fail", statistics=False)
    vocabulary = asked.annotator.vocabulary
    found = evaluate.evaluate_store(
        Overflowing(), vocabulary, survey, Columns(), k=2, on_bad_row="skip"
    )
    assert (found["images"], found["skipped_rows"]) == (2, 1)
    with pytest.raises(InputError, match="row 1: features are too large"):
        evaluate.evaluate_store(Overflowing(), vocabulary, survey, Columns(), k=2)

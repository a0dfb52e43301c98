"""Rules of a vocabulary at the scorer: why a tag is implied, groups, languages, spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.serving.feedback import _checked
from distributed.serving.model import ServedModel
from distributed.serving.requests import check_fits, parse_annotate
from distributed.serving.responses import annotate_json, infer_json
from distributed.serving.schemas import ApiError, FeedbackRequest
from distributed.serving.scoring import Scored, score_requests
from drel_core.bundle.tag_rules import TagRules
from tests.helpers.bundles import random_decider, write_drel

RULES = TagRules.parse(
    "aliases: {Hunde: tag-03, tag-00: tag-07}\nimplies: {tag-03: tag-04, tag-05: tag-04}\n"
    "groups: {season: {tags: [tag-08, tag-09], at_most: 1}, pets: [tag-03, tag-01]}\n"
    "blocked: [tag-02]\nsplit: {crane: [tag-10, tag-11]}\n"
    "names: {tag-03: {de: Hund, fr: chien}, tag-04: {de: <b>Tier</b>}}"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = write_drel(tmp_path_factory.mktemp("m") / "model", decider=random_decider(12))
    (folder / "vocabulary.yaml").write_text(RULES.to_yaml(), encoding="utf-8")
    return ServedModel(str(folder))


def ask(served: ServedModel, rows: int = 40, **options: Any) -> tuple[list[Any], Scored]:
    features = np.random.default_rng(0).normal(size=(rows, 8)).tolist()
    request = parse_annotate(json.dumps({"features": features, **options}).encode(), 8, 100)
    check_fits(request, served)
    (scored,) = score_requests(served, [request])
    if isinstance(scored, ApiError):
        raise scored
    results = json.loads(annotate_json(scored, request.lang))["results"]
    return [row["tags"] for row in results], scored


@pytest.mark.parametrize("decide", ["top", "macro", "threshold"])
def test_answers_keep_to_the_rules_and_say_why(served: ServedModel, decide: str) -> None:
    answers, _ = ask(served, decide=decide)
    marked = 0
    for tags in answers:
        score = {one["tag"]: one["score"] for one in tags}
        assert not {"tag-00", "tag-02"} & set(score) and len({"tag-08", "tag-09"} & set(score)) < 2
        assert "tag-04" in score or not {"tag-03", "tag-05"} & set(score)
        for one in tags:
            if by := one.get("implied_by"):
                marked += 1
                assert one["tag"] == "tag-04" and by in ("tag-03", "tag-05")
                assert score[by] == one["score"]
    assert marked


def test_only_tags_of_a_group(served: ServedModel) -> None:
    answers, _ = ask(served, group="pets", k=2)
    assert all({one["tag"] for one in tags} == {"tag-01", "tag-03"} for tags in answers)
    seasons, _ = ask(served, group="season", k=5)
    assert all(len(tags) == 1 for tags in seasons)
    everything, _ = ask(served, k=12)
    for tags, every in zip(answers, everything, strict=True):
        score = {one["tag"]: one["score"] for one in every}  # as probable as among others
        assert {one["tag"]: one["score"] for one in tags} == pytest.approx(
            {tag: score[tag] for tag in ("tag-01", "tag-03")}
        )
    with pytest.raises(ApiError, match="no group 'cats' of this model; it has season, pets"):
        ask(served, group="cats")


def test_display_names(served: ServedModel) -> None:
    answers, _ = ask(served, lang="de-AT", k=12)
    names = {one["tag"]: one["name"] for tags in answers for one in tags}
    assert names["tag-03"] == "Hund" and names["tag-04"] == "<b>Tier</b>"
    assert names["tag-05"] == "tag-05"
    with pytest.raises(ApiError, match="lang"):
        ask(served, lang="<script>")


def test_a_tensor_of_answers_has_no_gaps(served: ServedModel) -> None:
    _, scored = ask(served, group="season", k=2)
    tags, scores = json.loads(infer_json(scored, None))["outputs"]
    assert tags["shape"] == scores["shape"] == [40, 1] and "" not in tags["data"]
    _, scored = ask(served, k=12)
    tags, _ = json.loads(infer_json(scored, None))["outputs"]
    assert tags["shape"] == [40, 9] and len(tags["data"]) == 360


def found(
    served: ServedModel, prefix: str, group: str | None = None
) -> list[tuple[str, str | None]]:
    only_T = served.members(group)
    hits = served.tag_names.found(prefix, 20, None if only_T is None else only_T.numpy())
    return [(served.names[tag], by) for tag, by in hits]


def test_tags_are_found_by_other_spellings(served: ServedModel) -> None:
    assert found(served, "hund") == [("tag-03", "Hund")]  # one of Hund and Hunde
    assert found(served, "HUNDE ") == []  # a blank at its end is typed
    assert found(served, "hunde") == [("tag-03", "Hunde")]
    assert found(served, "tag-0", "pets") == [("tag-03", None), ("tag-01", None)]
    every = [tag for tag, _ in found(served, "")]
    assert len(every) == 10 and not {"tag-00", "tag-02"} & set(every)
    assert found(served, "tag-00") == [("tag-07", "tag-00")]
    assert served.tag_names.id_of(" Hunde") == 3
    assert served.tag_names.id_of("tag-00") == 7  # which is another spelling, with a row of its own
    near = served.neighbours("Hunde", 20)
    assert near is not None and len(near) == 9 and not {"tag-00", "tag-02"} & {t for t, _ in near}


def test_feedback_names_tags(served: ServedModel) -> None:
    def kept(**said: list[str]) -> Any:
        return _checked(FeedbackRequest(image_id="a", features=[0.0] * 8, **said), served)

    correction = kept(add=["Hunde", "tag-03", "new"], remove=["tag-00"])
    assert (correction.add, correction.remove) == (["tag-03", "new"], ["tag-07"])
    # A part says more than the tag that is split; whoever takes that away takes all parts away.
    correction = kept(add=["crane", "tag-10"], remove=["sky"])
    assert (correction.add, correction.remove) == (["tag-10"], ["sky"])
    assert kept(remove=["crane"]).remove == ["tag-10", "tag-11"]
    for said, fault in (
        ({"add": ["Hunde"], "remove": ["tag-03"]}, "'tag-03' is both in add and in remove"),
        (
            {"add": ["Hunde"], "remove": ["tag-04"]},
            "'tag-04' is implied by 'tag-03', but in remove",
        ),
        ({"add": ["tag-02"]}, "'tag-02' is blocked"),
        (
            {"add": ["crane"]},
            "'crane' is split into 'tag-10', 'tag-11'; add those that the image has",
        ),
        ({"add": ["tag-10"], "remove": ["crane"]}, "'tag-10' is both in add and in remove"),
    ):
        with pytest.raises(ApiError, match=fault):
            kept(**said)


def test_a_model_without_rules_answers_as_before(tmp_path: Path) -> None:
    served = ServedModel(str(write_drel(tmp_path / "model")))
    answers, _ = ask(served, k=3)
    assert all(set(one) == {"tag", "score"} for tags in answers for one in tags)
    with pytest.raises(ApiError, match="its vocabulary has none"):
        ask(served, group="pets")
    named, _ = ask(served, k=3, lang="de")
    assert all(one["name"] == one["tag"] for tags in named for one in tags)

"""The scorer without its server: requests checked, models held, feedback kept."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from distributed.bundles import tag_side
from distributed.bundles.locate import find_bundle, publish
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import Correction, append, last_words, read_feedback
from distributed.data.replay_buffer import RESERVOIR, fill_reservoir
from distributed.data.survey import survey_store
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.model import ServedModel, Wanted
from distributed.serving.requests import (
    ScoreRequest,
    binary_rows,
    decode_base64,
    named_rows,
    parse_annotate,
    parse_binary,
    parse_infer,
)
from distributed.serving.schemas import MAX_K, AnnotateQuery, ApiError, FeedbackRequest
from distributed.serving.scoring import Scored, score_batch, score_requests
from distributed.serving.tag_names import TagNames
from drel_core.annotators.base import choose, decision_of
from drel_core.bundle.format import bundle_folder
from drel_core.bundle.info import FeatureBlock
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.errors import InputError
from drel_core.model.towers import ModelConfig
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.stores import write_planted


def body(**content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[]", 422, "object"),
        (b"null", 422, "object"),
        (body(), 422, "either"),
        (body(features=[]), 422, "at least one"),
        (body(features=[[1.0, 2.0], [1.0]]), 422, "features[1] has 1"),
        (body(features=[[1.0, "2"]]), 422, "features.0.1"),
        (body(features="x"), 422, "features"),
        (b'{"features": [[1, NaN]]}', 422, "finite"),
        (b'{"features": [[1, 1e400]]}', 422, "finite"),
        (b'{"features": [[1, 1e39]]}', 422, "less than"),
        (body(features=[[1, None]]), 422, "features.0.1"),
        (body(features=[[1, 2]], images=["x"]), 422, "either"),
        (body(images=["%"]), 422, "images[0] is no base64: it holds '%'"),
        (body(images=["AAAA", "AA\u00e9A"]), 422, "images[1] is no base64: it holds '\u00e9'"),
        (body(images=["AA=A"]), 422, "it holds '='"),
        (body(images=["AAAAA"]), 422, "cut off after 5 signs"),
        (body(images=["data:image/png,AAAA"]), 422, "must be in ;base64"),
        (body(features=[[1, 2]], k=0), 422, "k:"),
        (body(features=[[1, 2]], k=MAX_K + 1), 422, "k:"),
        (body(features=[[1, 2]], k=2.5), 422, "k:"),
        (body(features=[[1, 2]], k="5"), 422, "k:"),
        (
            body(features=[[1, 2]], treshold=1),
            422,
            "treshold: not known; known are features, images,",
        ),
        (body(features=[[1, 2]] * 9), 413, "at most 8"),
        (body(features=[[True, 2]]), 422, "features.0.0"),
        (body(features=[[1, 2]], threshold="x"), 422, "threshold"),
        (body(features=[[1, 2]], threshold="per-tag"), 422, "threshold"),
        (body(features=[[1, 2]], decide="best"), 422, "decide"),
        (body(features=[[1, 2]], precision=0.9), 422, "precision needs decide threshold"),
        (body(features=[[1, 2]], decide="macro", precision=0.9), 422, "precision needs"),
        (body(features=[[1, 2]], decide="threshold", precision=0), 422, "precision"),
        (body(features=[[1, 2]], decide="threshold", precision=1.1), 422, "precision"),
        (body(features=[[1, 2]], decide="threshold", precision="x"), 422, "precision"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(sent: bytes, status: int, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_annotate(sent, 2, 8)
    assert caught.value.status == status
    assert word in caught.value.message


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 1000])
def test_base64_is_read_as_encoders_write_it(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    plain = base64.b64encode(data).decode()
    texts = [
        plain,
        base64.encodebytes(data).decode(),
        plain.replace("=", ""),
        base64.urlsafe_b64encode(data).decode(),
        f"data:image/png;base64,{plain}",
        f"Data:image/svg+xml;charset=utf-8;BASE64,{plain}",
        "\r\n".join(textwrap.wrap(plain, 76)),
        f" {plain}\n",
    ]
    assert decode_base64(texts) == [data] * len(texts)


def test_infer_takes_no_option_that_it_would_not_honour() -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    for name in ("threshold", "decide", "precision"):
        with pytest.raises(ApiError, match=f"parameters.{name}: only k") as caught:
            parse_infer(body(inputs=[tensor], parameters={name: 1}), 2, 8)
        assert caught.value.status == 422
    parse_infer(body(inputs=[tensor], parameters={"k": 1, "timeout": 3}), 2, 8)


def test_a_request_that_does_not_say_how_gets_the_scorers_decision() -> None:
    said, silent = b'{"features": [[1, 2]], "decide": "top"}', b'{"features": [[1, 2]]}'
    assert parse_annotate(said, 2, 8, "macro").decide == "top"
    assert parse_annotate(silent, 2, 8, "macro").decide == "macro"
    assert parse_annotate(silent, 2, 8).decide == "top"
    row = np.zeros((1, 2), "<f4").tobytes()
    found = parse_binary(row, AnnotateQuery(), 2, 8, "threshold")
    assert found.decide == "threshold" and found.k == 50
    assert parse_binary(row, AnnotateQuery(k=3, decide="top"), 2, 8, "threshold").k == 3


def test_how_many_tags_follows_from_the_decision_unless_it_is_said() -> None:
    for content, k in (
        ({}, 5),
        ({"k": None}, 5),
        ({"decide": "macro"}, 5),
        ({"decide": "threshold"}, 50),
        ({"decide": "threshold", "k": 3}, 3),
    ):
        assert parse_annotate(body(features=[[1, 2]], **content), 2, 8).k == k


def test_json_and_binary_give_the_same_rows() -> None:
    features_BD = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    asked = parse_annotate(body(features=features_BD.tolist(), k=2), 4, 8)
    assert asked.features_BD is not None and asked.k == 2
    np.testing.assert_array_equal(asked.features_BD, features_BD)
    np.testing.assert_array_equal(binary_rows(features_BD.tobytes(), 4), features_BD)


@pytest.mark.parametrize("numbers", [(3e38, 3e38, 3e38, 1.0), (3e38, -3e38, 1e30, 0.0)])
def test_large_binary_numbers_are_numbers(numbers: tuple[float, ...]) -> None:
    """Their squares are infinite."""
    np.testing.assert_array_equal(
        binary_rows(struct.pack("<4f", *numbers), 4), np.array([numbers], dtype=np.float32)
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"123", 400),
        (b"\0" * 15, 400),
        (struct.pack("<4f", 1, 2, float("nan"), 3), 422),
        (struct.pack("<4f", 1, 2, float("inf"), 3), 422),
    ],
)
def test_bad_binary_rows_are_refused(sent: bytes, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        binary_rows(sent, 4)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1, 3]},
        {"shape": [2, 4]},
        {"shape": [4]},
        {"datatype": "INT8"},
        {"data": [1.0]},
        {"data": [[1.0, 2.0]]},
        {"data": []},
        {"shape": [-1, 4]},
    ],
)
def test_inference_protocol_checks_shape_and_type(change: dict[str, object]) -> None:
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
    asked, identity = parse_infer(body(id="a", inputs=[tensor], parameters={"k": 3}), 4, 8)
    assert asked.features_BD is not None and asked.features_BD.shape == (1, 4)
    assert (asked.k, identity) == (3, "a")
    with pytest.raises(ApiError) as caught:
        parse_infer(body(inputs=[{**tensor, **change}]), 4, 8)
    assert caught.value.status == 422


def test_a_served_model_scores_as_its_bundle_does(tmp_path: Path) -> None:
    model = ServedModel(str(write_drel(tmp_path / "m")))
    features_BD = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)
    best = model.best(features_BD, 4)
    score_Bk, tag_Bk = model.annotator.annotate(torch.from_numpy(features_BD), 4)
    np.testing.assert_array_equal(best.score_Bk, score_Bk.numpy())
    np.testing.assert_array_equal(best.tag_Bk, tag_Bk.numpy())
    assert not model.takes_images
    with pytest.raises(InputError, match="no network"):
        model.features_of([b"x"])


WANTED = (
    Wanted(k=3),
    Wanted(k=60),
    Wanted(k=4, decide="macro"),
    Wanted(k=70, decide="macro"),
    Wanted(k=50, decide="threshold"),
    Wanted(k=2, decide="threshold"),
    Wanted(k=60, decide="threshold", precision=0.6),
    Wanted(k=5, threshold=0.35),
)


def said(found: Scored) -> list[list[int]]:
    """Tag ids of each row that are to be said."""
    keep_Bk = np.full(found.tag_Bk.shape, True) if found.keep_Bk is None else found.keep_Bk
    return [row[keep].tolist() for row, keep in zip(found.tag_Bk, keep_Bk, strict=True)]


def test_requests_with_other_decisions_are_scored_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets what the library decides for its rows alone, whatever else is in the batch."""
    path = write_drel(tmp_path / "m", tags=80, decider=random_decider(80))
    generator = np.random.default_rng(2)
    batches: list[int] = []

    async def counted(model: ServedModel, asked: list[ScoreRequest]) -> list[Scored | ApiError]:
        batches.append(sum(request.rows for request in asked))
        return await score_batch(model, asked)

    monkeypatch.setattr("distributed.serving.hot_swap.score_batch", counted)
    requests = [
        ScoreRequest(generator.normal(size=(3, 8)).astype(np.float32), [], **vars(wanted))
        for wanted in WANTED
    ]

    async def together() -> list[Scored]:
        held = HotSwapModel(ServedModel, max_rows=64, queue_rows=64)
        await held.follow(str(path), poll_seconds=60)
        return await asyncio.gather(*map(held.score, requests))

    answers = asyncio.run(together())
    assert sum(batches) in (21, 24)  # the first may be answered at once
    assert max(batches) >= 21  # one alone at most, the others together
    annotator = ServedModel(str(path)).annotator
    several = set()
    for asked, answer in zip(requests, answers, strict=True):
        assert asked.features_BD is not None
        decision = decision_of(annotator, asked.decide, asked.precision)
        chosen = choose(annotator, torch.from_numpy(asked.features_BD), asked.k, decision)
        keep_Bk = chosen.ids >= 0
        if asked.threshold is not None:
            keep_Bk &= chosen.probability_Bk >= asked.threshold
        kept = [
            row[keep].tolist()
            for row, keep in zip(chosen.tag_Bk.numpy(), keep_Bk.numpy(), strict=True)
        ]
        assert said(answer) == kept
        np.testing.assert_allclose(answer.score_Bk, chosen.probability_Bk.numpy(), atol=1e-6)
        assert len({str(tags) for tags in kept}) > 1  # rows differ: each must get its own
        several.add(str(kept))
    assert len(several) == len(WANTED)


@pytest.mark.parametrize("decided", [True, False])
def test_a_row_that_overflows_fails_its_request_alone(tmp_path: Path, decided: bool) -> None:
    path = write_drel(tmp_path / "m", decider=random_decider(12) if decided else None)
    generator = np.random.default_rng(3)
    requests = [
        ScoreRequest(generator.normal(size=(4, 8)).astype(np.float32), [], k=3) for _ in range(6)
    ]
    for place in (1, 4):
        rows_BD = requests[place].features_BD
        assert rows_BD is not None
        rows_BD[2] = [3e38, -3e38] * 4

    async def together() -> list[Scored | BaseException]:
        held = HotSwapModel(ServedModel, max_rows=64, queue_rows=64)
        await held.follow(str(path), poll_seconds=60)
        return await asyncio.gather(*map(held.score, requests), return_exceptions=True)

    answers = asyncio.run(together())
    annotator = ServedModel(str(path)).annotator
    for place, (asked, answer) in enumerate(zip(requests, answers, strict=True)):
        if place in (1, 4):
            assert isinstance(answer, ApiError)
            assert (answer.status, answer.code, answer.row) == (422, "not_scorable", 2)
            assert "row 2: features are too large" in answer.message
            continue
        assert isinstance(answer, Scored) and asked.features_BD is not None
        score_Bk, tag_Bk = annotator.annotate(torch.from_numpy(asked.features_BD), 3)
        np.testing.assert_array_equal(answer.tag_Bk, tag_Bk.numpy())
        np.testing.assert_allclose(answer.score_Bk, score_Bk.numpy(), atol=1e-6)


def test_a_request_for_more_tags_than_codes_find_is_scored_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else's answer changes, and the event loop does not wait for it."""
    monkeypatch.setattr(tag_side, "LEAST_TAGS", 1000)
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path))
    shape = ModelConfig(tag_tower="none", latent=16, metric="none")
    path = write_drel(tmp_path / "m", tags=3000, shape=shape)
    rows_ND = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    pq.write_table(pa.table({"features": list(rows_ND)}), path / RESERVOIR)
    # What follows is of the ways to search, not of how well these codes find.
    monkeypatch.setattr("distributed.bundles.tag_side.LEAST_RECALL", 0.0)
    model = ServedModel(str(path))
    annotator: Any = model.annotator
    searched: list[tuple[int, int]] = []
    best = annotator.search.best

    def noted(image_BL: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        searched.append((len(image_BL), k))
        return best(image_BL, k)  # type: ignore[no-any-return]

    monkeypatch.setattr(annotator.search, "best", noted)
    requests = [ScoreRequest(rows_ND[n : n + 2], [], k=k) for n, k in enumerate((5, 60, 50, 1000))]
    answers = score_requests(model, requests)
    assert searched == [(4, 50)]
    for asked, answer in zip(requests, answers, strict=True):
        (alone,) = score_requests(model, [asked])
        assert isinstance(alone, Scored) and isinstance(answer, Scored)
        assert answer.tag_Bk.shape == (2, asked.k)
        np.testing.assert_array_equal(answer.tag_Bk, alone.tag_Bk)
    model.row_seconds, model._deep_row_seconds = 1e-6, 1.0
    threads: list[bool] = []

    def seen(model: ServedModel, asked: list[ScoreRequest]) -> list[Scored | ApiError]:
        threads.append(threading.current_thread() is not threading.main_thread())
        return score_requests(model, asked)

    monkeypatch.setattr("distributed.serving.scoring.score_requests", seen)
    for asked in requests:
        asyncio.run(score_batch(model, [asked]))
    assert threads == [False, True, False, True]


def test_a_model_that_knows_no_probabilities_decides_by_top_alone(tmp_path: Path) -> None:
    plain = ServedModel(str(write_drel(tmp_path / "plain")))
    able = ServedModel(str(write_drel(tmp_path / "able", decider=random_decider(12))))
    assert plain.decisions == ["top"] and able.decisions == ["top", "macro", "threshold"]
    for how in ("macro", "threshold"):
        with pytest.raises(ApiError, match="can only decide by top") as caught:
            plain.decision(how, None)
        assert (caught.value.status, caught.value.code) == (422, "cannot_decide")
    with pytest.raises(ApiError, match="ask for less") as caught:
        able.decision("threshold", 1.0)
    assert caught.value.status == 422


def test_tags_are_found_by_prefix_and_count(tmp_path: Path) -> None:
    names = ("Sea", "été", "seal", "SEAT", "boat", "étude", "s")
    model = ServedModel(str(write_drel(tmp_path / "m", names=names)))

    def found(prefix: str, limit: int) -> list[str]:
        return [names[tag] for tag in model.tag_names.beginning_with(prefix, limit)]

    assert found("sea", 10) == ["SEAT", "seal", "Sea"]  # counts rise with the place
    assert found("SEA", 2) == ["SEAT", "seal"]
    assert found("ÉT", 10) == ["étude", "été"]
    assert found("x", 10) == []
    assert len(found("", 10)) == 7
    assert found("", 1) == ["s"]


def test_of_equally_frequent_tags_the_first_by_name_are_found() -> None:
    names = tuple(f"tag-{tag:04d}" for tag in np.random.default_rng(0).permutation(2000))
    found = TagNames(Vocabulary(names, np.ones(2000, np.int64))).beginning_with("TAG", 3)
    assert [names[tag] for tag in found] == ["tag-0000", "tag-0001", "tag-0002"]
    counts = np.where(np.array(names) == "tag-1999", 10**12, 1)
    found = TagNames(Vocabulary(names, counts)).beginning_with("TAG", 3)
    assert [names[tag] for tag in found] == ["tag-1999", "tag-0000", "tag-0001"]


def test_examples_are_rows_that_the_model_keeps(tmp_path: Path) -> None:
    model = ServedModel(str(write_drel(tmp_path / "m")))
    assert model.examples(5) == []
    survey = survey_store(
        FeatureStore.open(str(write_planted(tmp_path / "s.parquet", 40, dim=8))), "fail"
    )
    fill_reservoir(model.folder, survey, Columns(), 30, seed=0)
    found = model.examples(5)
    assert len(found) == 5 == len({row["image_id"] for row in found})
    assert all(len(row["features"]) == 8 and row["tags"] for row in found)
    assert len(model.examples(50)) == 30


def test_neighbours_are_nearest_by_cosine(tmp_path: Path) -> None:
    model = ServedModel(str(write_drel(tmp_path / "m")))
    tag_TL = model.annotator.tag_TL.double().numpy()  # type: ignore[attr-defined]
    unit_TL = tag_TL / np.linalg.norm(tag_TL, axis=1, keepdims=True)
    cosine_T = unit_TL @ unit_TL[3]
    expected = [f"tag-{tag:02d}" for tag in np.argsort(-cosine_T) if tag != 3][:5]
    found = model.neighbours("tag-03", 5)
    assert found is not None and [name for name, _ in found] == expected
    assert [score for _, score in found] == pytest.approx(
        sorted(np.delete(cosine_T, 3))[::-1][:5], abs=1e-5
    )
    everyone = model.neighbours("tag-03", 100)
    assert everyone is not None and len(everyone) == 11
    with pytest.raises(KeyError):
        model.neighbours("tag-99", 5)
    assert model.neighbours("\u200b tag-03\n", 5) == found
    assert model.tag_names.beginning_with(" tag-03", 5) == [3]


def test_tags_of_feedback_are_kept_in_the_one_form() -> None:
    request = FeedbackRequest.model_validate(
        {"image_id": "i", "features": [0.0], "add": [" cat\n", "cafe\u0301"], "remove": ["CAT"]}
    )
    assert request.add == ["cat", "caf\u00e9"]
    assert request.remove == ["CAT"]
    for blank in (" ", "\u200b", "\n"):
        with pytest.raises(ValidationError, match="it is blank"):
            FeedbackRequest.model_validate({"image_id": "i", "features": [0.0], "add": [blank]})


def test_latest_names_the_version_to_use(tmp_path: Path) -> None:
    write_drel(tmp_path / "v1")
    write_drel(tmp_path / "v2" / "model", seed=1)
    publish(tmp_path, "v1")
    first = find_bundle(str(tmp_path))
    assert first[0].path == tmp_path / "v1"
    publish(tmp_path, "v2")
    assert bundle_folder(tmp_path) == tmp_path / "v2" / "model"
    assert find_bundle(str(tmp_path))[1] != first[1]
    with pytest.raises(InputError, match="no model bundle"):
        publish(tmp_path, "v3")
    assert bundle_folder(tmp_path) == tmp_path / "v2" / "model"  # as it was
    (tmp_path / "latest").write_text("../elsewhere")
    with pytest.raises(InputError, match="beside it"):
        bundle_folder(tmp_path)


def test_a_model_whose_scores_are_not_finite_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_drel(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["log_scale"] = torch.tensor(float("nan"))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match="NaN or Inf"):
        ServedModel(str(folder))


def word(
    image_id: str, value: float, add: list[str], remove: list[str] | None = None
) -> Correction:
    return Correction(image_id, np.full(3, value, dtype=np.float32), add, remove or [], "v")


def test_of_feedback_the_last_word_on_an_image_counts(tmp_path: Path) -> None:
    folder = str(tmp_path / "feedback")
    append(folder, [word("a", 1, ["x"]), word("b", 2, ["y"]), word("a", 3, ["z"], ["x"])])
    time.sleep(0.002)
    append(folder, [word("b", 4, [], ["y"])])
    every = read_feedback(folder, 3)
    assert every.column("image_id").to_pylist() == ["a", "b", "a", "b"]
    table = every.filter(pa.array(last_words(every)))
    assert table.column("image_id").to_pylist() == ["a", "b"]
    assert table.column("add").to_pylist() == [["z"], []]
    assert table.column("remove").to_pylist() == [["x"], ["y"]]
    assert table.column("features").to_pylist() == [[3.0] * 3, [4.0] * 3]
    assert not list(Path(folder).glob("*.tmp"))
    with pytest.raises(InputError, match="D = 4"):
        read_feedback(folder, 4)
    with pytest.raises(InputError, match="no such"):
        read_feedback(str(tmp_path / "none"), 3)


def test_feedback_left_half_written_by_a_crash_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "feedback"
    append(str(folder), [word("a", 1, ["x"])])
    whole = next(folder.glob("*.parquet"))
    (folder / "feedback-1.parquet.tmp").write_bytes(whole.read_bytes()[:100])
    assert len(read_feedback(str(folder), 3)) == 1
    whole.write_bytes(whole.read_bytes()[:100])
    with pytest.raises(InputError, match="feedback-"):
        read_feedback(str(folder), 3)


BLOCKS = (FeatureBlock("deep", 3), FeatureBlock("low", 1))


def test_rows_by_column_are_the_concatenated_rows() -> None:
    features_BD = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    named = {"low": features_BD[:, 3:].tolist(), "deep": features_BD[:, :3].tolist()}
    asked = parse_annotate(body(features=named, k=2), 4, 8, blocks=BLOCKS)
    flat = parse_annotate(body(features=features_BD.tolist(), k=2), 4, 8, blocks=BLOCKS)
    assert asked.features_BD is not None and flat.features_BD is not None and asked.k == 2
    np.testing.assert_array_equal(asked.features_BD, flat.features_BD)
    with pytest.raises(ApiError, match="features is empty; this model takes no columns by name"):
        named_rows({}, ())  # as feedback without columns asks a model of pictures
    alone = parse_annotate(body(features={"x": [[1, 2]]}), 2, 8, blocks=(FeatureBlock("x", 2),))
    np.testing.assert_array_equal(alone.features_BD, [[1, 2]])


@pytest.mark.parametrize(
    ("features", "status", "word"),
    [
        ({"deep": [[1, 2, 3]]}, 422, "features.low is missing; this model takes deep (D = 3), low"),
        ({"deep": [[1, 2, 3]], "low": [[1]], "lo": [[1]]}, 422, "features.lo: no column of this"),
        ({"deep": [[1, 2, 3]], "low": [[1, 2]]}, 422, "features.low[0] has 2 numbers; this model"),
        (
            {"deep": [[1, 2, 3]], "low": [[1], [2]]},
            422,
            "features.low has 2 rows, features.deep has 1",
        ),
        ({"deep": [[1, 2, 3]], "low": [["x"]]}, 422, "features.low.0.0"),
        ({"deep": [[1, 2, 3]], "low": [[1e39]]}, 422, "features.low.0.0"),
        ({"deep": [1, 2, 3], "low": [1]}, 422, "features.deep.0"),
        ({"deep": [[1, 2, 3]] * 9, "low": [[1]] * 9}, 413, "at most 8"),
        ({}, 422, "no rows"),
        ({"deep": [], "low": []}, 422, "no rows"),
        ("deep", 422, "features: "),
    ],
)
def test_rows_by_column_that_do_not_fit_name_the_column(
    features: Any, status: int, word: str
) -> None:
    with pytest.raises(ApiError) as caught:
        parse_annotate(body(features=features), 4, 8, blocks=BLOCKS)
    assert caught.value.status == status
    assert word in caught.value.message


def test_a_newer_model_of_other_columns_does_not_take_the_place(tmp_path: Path) -> None:
    def named(*columns: tuple[str, int]) -> list[dict[str, Any]]:
        return [{"name": name, "dim": dim} for name, dim in columns]

    write_drel(tmp_path / "v1", columns=named(("deep", 5), ("low", 3)))
    write_drel(tmp_path / "v2", seed=2, columns=named(("low", 3), ("deep", 5)))
    write_drel(tmp_path / "v3", seed=3, columns=named(("deep", 5), ("low", 3)))
    seen = {}

    async def swap() -> None:
        held = HotSwapModel(ServedModel, max_rows=64, queue_rows=64)
        for name in ("v1", "v2", "v3"):
            publish(tmp_path, name)
            await held.follow(str(tmp_path), poll_seconds=60)
            seen[name] = (held.version, held.refused)

    asyncio.run(swap())
    versions = {name: find_bundle(tmp_path / name)[1] for name in ("v1", "v3")}
    assert seen["v1"] == (versions["v1"], None) and seen["v3"] == (versions["v3"], None)
    version, refused = seen["v2"]
    assert version == versions["v1"] and refused is not None
    assert "low (3), deep (5), but the scorer answers deep (5), low (3)" in refused


def test_a_bundle_whose_columns_are_not_its_model_is_refused(tmp_path: Path) -> None:
    about = {"image_dim": 9, "columns": [{"name": "deep", "dim": 9}]}
    with pytest.raises(InputError, match="damaged"):
        ServedModel(str(write_drel(tmp_path / "m", dim=8, **about)))

"""A second version beside the one that answers: which requests it gets, what is compared, how it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.bundles.locate import find_bundle, publish
from distributed.serving import hot_swap
from distributed.serving.agreement import Agreement, compare, shared_ids
from distributed.serving.asgi import create_app
from distributed.serving.config import ScorerConfig, TrialPlan
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.model import ServedModel
from distributed.serving.requests import ScoreRequest
from distributed.serving.scoring import Scored, score_requests
from distributed.serving.service import ScorerService
from distributed.serving.trial import pieces
from drel_core.decision.decider import Decide
from tests.helpers.bundles import random_decider, write_drel

D = 8
TAGS = 12


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def asked(features_BD: np.ndarray, k: int = 5, **more: Any) -> ScoreRequest:
    return ScoreRequest(features_BD, [], k=k, **more)


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """v1, which ``latest`` names, and v2, which has its tags in another order and three others."""
    write_drel(tmp_path / "v1", decider=random_decider(TAGS))
    names = (*(f"tag-{tag:02d}" for tag in range(TAGS - 1, 2, -1)), "new", "newer", "newest")
    write_drel(tmp_path / "v2", seed=1, names=names, decider=random_decider(TAGS, seed=1))
    publish(tmp_path, "v1")
    return tmp_path


def version_of(path: Path) -> str:
    return find_bundle(path)[1]


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(4000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")


def counted_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the models that are loaded from now on."""
    loads: list[str] = []
    init = ServedModel.__init__

    def counted(self: ServedModel, path: str, backbone: str = "") -> None:
        loads.append(path)
        init(self, path, backbone)

    monkeypatch.setattr(ServedModel, "__init__", counted)
    return loads


def trying(
    versions: Path,
    plan: TrialPlan,
    act: Callable[[HotSwapModel], Awaitable[None]],
    state: str = "running",
    poll_seconds: float = 60,
) -> None:
    async def run() -> None:
        held = HotSwapModel(ServedModel, max_rows=64, queue_rows=4096)
        await held.follow(str(versions), poll_seconds, plan)
        await until(lambda: held.trial.report()["state"] == state)
        await act(held)

    asyncio.run(run())


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_a_canary_answers_its_share_and_the_same_picture_always(
    versions: Path, share: float
) -> None:
    """By rows alone and in other company, in other replicas, and a larger share holds the smaller one."""
    features_BD = rows(4000)
    first, second = version_of(versions / "v1"), version_of(versions / "v2")
    chosen: list[list[bool]] = []

    async def act(held: HotSwapModel) -> None:
        found = await asyncio.gather(*(held.score(asked(row[None])) for row in features_BD))
        assert {answer.model.version for answer in found} <= {first, second}
        chosen.append([answer.model.version == second for answer in found])

    trying(versions, TrialPlan("canary", str(versions / "v2"), share), act)
    trying(versions, TrialPlan("canary", str(versions / "v2"), share), act)
    assert chosen[0] == chosen[1]
    assert abs(np.mean(chosen[0]) - share) < 4 * np.sqrt(share * (1 - share) / 4000) + 1e-9

    async def larger(held: HotSwapModel) -> None:
        held.trial.plan(TrialPlan("canary", str(versions / "v2"), min(1.0, 2 * share)))
        assert all(
            held.trial.chooses(asked(row[None]))
            for row, was in zip(features_BD, chosen[0], strict=True)
            if was
        )
        together = asked(np.concatenate([features_BD[:1], rows(5, seed=9)]))
        assert held.trial.chooses(together) == held.trial.chooses(asked(features_BD[:1]))
        pictures = [ScoreRequest(None, [bytes([number])], k=5) for number in range(200)]
        held.trial.plan(TrialPlan("canary", str(versions / "v2"), 0.5))
        assert 60 < sum(map(held.trial.chooses, pictures)) < 140

    trying(versions, TrialPlan("canary", str(versions / "v2"), share), larger)


def test_what_a_canary_answers_is_its_versions(versions: Path) -> None:
    models = {
        model.version: model
        for model in (ServedModel(str(versions / name)) for name in ("v1", "v2"))
    }
    seen: set[str] = set()

    async def act(held: HotSwapModel) -> None:
        for row in rows(40):
            answer = await held.score(asked(row[None], decide="macro"))
            (alone,) = score_requests(
                models[answer.model.version], [asked(row[None], decide="macro")]
            )
            assert isinstance(alone, Scored)
            np.testing.assert_array_equal(answer.tag_Bk, alone.tag_Bk)
            np.testing.assert_allclose(answer.score_Bk, alone.score_Bk, atol=1e-6)
            seen.add(answer.model.version)

    trying(versions, TrialPlan("canary", str(versions / "v2"), 0.5), act)
    assert len(seen) == 2


WANTED: tuple[dict[str, Any], ...] = (
    {"k": 5},
    {"k": 1},
    {"k": 12},
    {"k": 4, "decide": "macro"},
    {"k": 12, "decide": "threshold"},
    {"k": 5, "threshold": 0.3},
    {"k": 5, "threshold": 2.0},
)


@pytest.mark.parametrize("wanted", WANTED)
def test_agreement_is_that_of_a_naive_loop(versions: Path, wanted: dict[str, Any]) -> None:
    live, trial = (ServedModel(str(versions / name)) for name in ("v1", "v2"))
    request = asked(rows(50), **wanted)
    (one,), (two,) = score_requests(live, [request]), score_requests(trial, [request])
    assert isinstance(one, Scored) and isinstance(two, Scored)

    def said(scored: Scored, row: int) -> dict[str, float]:
        keep = None if scored.keep_Bk is None else scored.keep_Bk[row]
        return {
            scored.model.names[tag]: float(score)
            for place, (tag, score) in enumerate(
                zip(scored.tag_Bk[row], scored.score_Bk[row], strict=True)
            )
            if keep is None or keep[place]
        }

    expected = Agreement()
    for row in range(50):
        a, b = said(one, row), said(two, row)
        both = set(a) & set(b)
        first_a, first_b = next(iter(a), None), next(iter(b), None)
        has = bool(a and b)
        expected += Agreement(
            rows=1,
            agreed=len(both) / max(len(a), len(b)) if a or b else 1.0,
            same_first=int(first_a == first_b),
            common_tags=len(both),
            score_gap=sum(abs(a[tag] - b[tag]) for tag in both),
            scored_rows=int(has),
            live_score=a[first_a] if first_a is not None and has else 0.0,
            trial_score=b[first_b] if first_b is not None and has else 0.0,
        )
    found = compare(one, two, shared_ids(live, trial))
    assert vars(found) == pytest.approx(vars(expected), abs=1e-5)
    if wanted["k"] == 5 and "threshold" not in wanted:
        assert 0 < found.agreed < 50


def test_a_shadow_answers_nothing_and_is_compared_with_every_answer(versions: Path) -> None:
    features_BD = rows(200)
    live, trial = (ServedModel(str(versions / name)) for name in ("v1", "v2"))
    (one,), (two,) = (score_requests(model, [asked(features_BD)]) for model in (live, trial))
    assert isinstance(one, Scored) and isinstance(two, Scored)
    expected = compare(one, two, shared_ids(live, trial))
    report: dict[str, Any] = {}

    async def act(held: HotSwapModel) -> None:
        found = await asyncio.gather(*(held.score(asked(row[None])) for row in features_BD))
        assert {answer.model.version for answer in found} == {live.version}
        await until(lambda: (held.trial.report()["compared"] or {"rows": 0})["rows"] == 200)
        report.update(held.trial.report())

    trying(versions, TrialPlan("shadow", str(versions / "v2")), act)
    compared = report["compared"]
    assert compared["agreement"] == pytest.approx(expected.agreed / 200)
    assert compared["same_first"] == expected.same_first / 200
    assert compared["score_gap"] == pytest.approx(expected.score_gap / expected.common_tags, 1e-3)
    assert compared["live_score"] == pytest.approx(expected.live_score / 200, 1e-3)
    assert compared["trial_score"] == pytest.approx(expected.trial_score / 200, 1e-3)
    assert compared["live_ms"] > 0 and compared["trial_ms"] > 0
    assert (report["mode"], report["model"], report["share"]) == ("shadow", trial.version, None)
    assert (report["failed"], report["dropped"], report["refused"]) == (0, 0, None)


def test_a_canary_is_compared_on_what_it_answered(versions: Path) -> None:
    answered: list[int] = []
    report: dict[str, Any] = {}

    async def act(held: HotSwapModel) -> None:
        second = version_of(versions / "v2")
        found = await asyncio.gather(*(held.score(asked(row[None])) for row in rows(200)))
        answered.append(sum(answer.model.version == second for answer in found))
        await until(lambda: (held.trial.report()["compared"] or {"rows": 0})["rows"] == answered[0])
        await asyncio.sleep(0.05)
        report.update(held.trial.report())

    trying(versions, TrialPlan("canary", str(versions / "v2"), 0.3), act)
    assert report["compared"]["rows"] == answered[0] > 30
    assert 0 < report["compared"]["agreement"] < 1


def test_versions_without_probabilities_are_compared_by_their_tags_alone(tmp_path: Path) -> None:
    write_drel(tmp_path / "v1")
    write_drel(tmp_path / "v2", seed=1)
    publish(tmp_path, "v1")
    report: dict[str, Any] = {}

    async def act(held: HotSwapModel) -> None:
        await held.score(asked(rows(20)))
        await until(lambda: held.trial.report()["compared"] is not None)
        report.update(held.trial.report()["compared"])

    trying(tmp_path, TrialPlan("shadow", str(tmp_path / "v2")), act)
    assert 0 < report["agreement"] < 1 and report["score_gap"] is None
    assert report["live_score"] is None and report["trial_score"] is None


def test_a_large_request_is_compared_in_pieces_of_a_few_ms(versions: Path) -> None:
    live, trial = (ServedModel(str(versions / name)) for name in ("v1", "v2"))
    live.row_seconds, trial.row_seconds = 1e-5, 1e-3

    class Held:
        pass

    pair: Any = Held()
    pair.live, pair.trial = live, trial
    request = asked(rows(10), decide="threshold", k=12)
    (scored,) = score_requests(live, [request])
    assert isinstance(scored, Scored)
    found = pieces(request, scored, pair)
    assert [part.rows for part, _ in found] == [3, 3, 3, 1]
    for name in ("score_Bk", "tag_Bk", "keep_Bk", "features_BD"):
        whole = np.concatenate([getattr(answer, name) for _, answer in found])
        np.testing.assert_array_equal(whole, getattr(scored, name))
    whole = np.concatenate([part.features_BD for part, _ in found if part.features_BD is not None])
    np.testing.assert_array_equal(whole, request.features_BD)


def test_what_cannot_be_compared_in_time_is_dropped_and_counted(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_swap, "_BESIDE_BYTES", 2000)
    report: dict[str, Any] = {}

    async def act(held: HotSwapModel) -> None:
        held._queued_rows += 1  # something is always being answered
        for row in rows(100):
            await held.score(asked(row[None]))
        before = held.trial.report()
        assert before["compared"] is None and 50 < before["dropped"] < 100
        held._queued_rows -= 1
        left = 100 - before["dropped"]
        await until(lambda: (held.trial.report()["compared"] or {"rows": 0})["rows"] == left)
        report.update(held.trial.report())

    trying(versions, TrialPlan("shadow", str(versions / "v2")), act)
    assert report["compared"]["rows"] + report["dropped"] == 100


def damage(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"no tensors")


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_one_that_does_not_load_is_refused_in_one_line_until_it_is_repaired(
    versions: Path, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (versions / "v2" / "model.safetensors").read_bytes()
    damage(versions / "v2")
    first = version_of(versions / "v1")

    async def act(held: HotSwapModel) -> None:
        refused = held.trial.report()["refused"]
        assert "v2" in refused and "\n" not in refused
        assert (await held.score(asked(rows(1)))).model.version == first
        await asyncio.sleep(0.2)
        (versions / "v2" / "model.safetensors").write_bytes(whole)
        await until(lambda: held.trial.report()["state"] == "running")
        assert held.trial.report()["refused"] is None

    plan = TrialPlan(mode, str(versions / "v2"), 1.0)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        trying(versions, plan, act, "refused", poll_seconds=0.05)
    assert len([line for line in caplog.messages if "refused" in line]) == 1


def test_one_of_another_size_is_refused_and_not_loaded_again(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_drel(versions / "wide", dim=D + 1)
    loads = counted_loads(monkeypatch)

    async def act(held: HotSwapModel) -> None:
        assert "D = 9, but the scorer answers D = 8" in held.trial.report()["refused"]
        await asyncio.sleep(0.3)

    plan = TrialPlan("canary", str(versions / "wide"), 1.0)
    trying(versions, plan, act, "refused", poll_seconds=0.05)
    assert len([path for path in loads if path.endswith("wide")]) == 1


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_one_that_fails_to_score_is_taken_out_and_no_request_fails(
    versions: Path, mode: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (version_of(versions / name) for name in ("v1", "v2"))
    best = ServedModel.best

    def fails(self: ServedModel, features_BD: np.ndarray, k: int) -> Any:
        if self.version == second:
            raise RuntimeError("an index is out of range")
        return best(self, features_BD, k)

    async def act(held: HotSwapModel) -> None:
        monkeypatch.setattr(ServedModel, "best", fails)
        found = await asyncio.gather(*(held.score(asked(row[None])) for row in rows(50)))
        assert {answer.model.version for answer in found} == {first}
        await until(lambda: held.trial.report()["state"] == "refused")
        await asyncio.sleep(0.2)  # the watcher looks, and does not load it again
        report = held.trial.report()
        assert report["state"] == "refused" and report["model"] is None
        assert "failed to score (RuntimeError: an index is out of range)" in report["refused"]

    with caplog.at_level(logging.ERROR, "ray.serve"):
        plan = TrialPlan(mode, str(versions / "v2"), 1.0)
        trying(versions, plan, act, poll_seconds=0.05)
    assert len([line for line in caplog.messages if "refused" in line]) == 1


def test_what_a_canary_cannot_answer_the_live_version_does(tmp_path: Path) -> None:
    """One that knows no probabilities cannot decide by macro; it goes on with other requests."""
    write_drel(tmp_path / "v1", decider=random_decider(TAGS))
    write_drel(tmp_path / "v2", seed=1)
    publish(tmp_path, "v1")
    first, second = (version_of(tmp_path / name) for name in ("v1", "v2"))

    async def act(held: HotSwapModel) -> None:
        def ask(decide: Decide) -> ScoreRequest:
            return asked(rows(3), decide=decide)

        assert (await held.score(ask("macro"))).model.version == first
        assert held.trial.report()["failed"] == 3
        assert (await held.score(ask("top"))).model.version == second

    trying(tmp_path, TrialPlan("canary", str(tmp_path / "v2"), 1.0), act)


def test_latest_moves_to_the_canary_and_the_trial_ends(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not loaded again, and it does not come back beside later versions."""
    write_drel(versions / "v3", seed=3, decider=random_decider(TAGS))
    loads = counted_loads(monkeypatch)
    second, third = (version_of(versions / name) for name in ("v2", "v3"))

    async def act(held: HotSwapModel) -> None:
        assert len(loads) == 2
        publish(versions, "v2")
        await until(lambda: held.version == second)
        await until(lambda: held.trial.report()["state"] == "ended")
        assert len(loads) == 2 and held.trial.report()["model"] is None
        publish(versions, "v3")
        await until(lambda: held.version == third)
        await asyncio.sleep(0.2)
        assert held.trial.report()["state"] == "ended" and len(loads) == 3
        assert (await held.score(asked(rows(1)))).model.version == third

    trying(versions, TrialPlan("canary", str(versions / "v2"), 1.0), act, poll_seconds=0.05)


def test_an_update_of_the_canary_answers_and_the_trial_ends(versions: Path) -> None:
    """Also in a replica that starts later."""
    second = version_of(versions / "v2")
    write_drel(versions / "v3", seed=3, decider=random_decider(TAGS), parent=second)
    publish(versions, "v3")

    async def act(held: HotSwapModel) -> None:
        assert held.trial.report()["model"] is None

    trying(versions, TrialPlan("canary", str(versions / "v2"), 1.0), act, "ended")


def test_a_newer_version_of_what_is_tried_takes_its_place_and_is_never_a_third_model(
    versions: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place may be a folder of versions too. The older one is gone before the newer one is loaded."""
    candidates = tmp_path_factory.mktemp("candidates")
    for seed in (5, 6):
        write_drel(candidates / f"c{seed}", seed=seed, decider=random_decider(TAGS))
    publish(candidates, "c5")
    alive: weakref.WeakSet[ServedModel] = weakref.WeakSet()
    most: list[int] = []
    init = ServedModel.__init__

    def counted(self: ServedModel, path: str, backbone: str = "") -> None:
        gc.collect()
        alive.add(self)
        most.append(len(alive))
        init(self, path, backbone)

    monkeypatch.setattr(ServedModel, "__init__", counted)

    async def act(held: HotSwapModel) -> None:
        for name in ("c5", "c6"):
            publish(candidates, name)
            version = version_of(candidates / name)
            await until(lambda version=version: held.trial.report()["model"] == version)  # type: ignore[misc]
            for row in rows(30):
                await held.score(asked(row[None]))
            await until(lambda: (held.trial.report()["compared"] or {"rows": 0})["rows"] == 30)

    trying(versions, TrialPlan("shadow", str(candidates)), act, poll_seconds=0.05)
    assert most == [1, 2, 2]


def test_latest_moves_elsewhere_and_the_trial_goes_on_beside_it(versions: Path) -> None:
    write_drel(versions / "v3", seed=3, decider=random_decider(TAGS))
    second, third = (version_of(versions / name) for name in ("v2", "v3"))

    async def act(held: HotSwapModel) -> None:
        await held.score(asked(rows(20)))
        await until(lambda: held.trial.report()["compared"] is not None)
        publish(versions, "v3")
        await until(lambda: held.version == third and held.trial.report()["compared"] is None)
        assert (await held.score(asked(rows(7)))).model.version == third
        await until(lambda: held.trial.report()["compared"] is not None)
        report = held.trial.report()  # of these two versions alone
        assert (report["model"], report["compared"]["rows"]) == (second, 7)

    trying(versions, TrialPlan("shadow", str(versions / "v2")), act, poll_seconds=0.05)


def test_the_plan_is_changed_and_ended_while_requests_come(versions: Path) -> None:
    first, second = (version_of(versions / name) for name in ("v1", "v2"))

    async def act(held: HotSwapModel) -> None:
        async def follow(plan: TrialPlan | None) -> None:
            await held.follow(str(versions), 60, plan)

        request = asked(rows(1))
        assert (await held.score(request)).model.version == first
        await until(lambda: held.trial.report()["compared"] is not None)
        await follow(TrialPlan("canary", str(versions / "v2"), 1.0))
        report = held.trial.report()
        assert report["state"] == "running"  # nothing is loaded for it
        assert report["compared"] is None  # and what the shadow saw is not the canary's
        assert (await held.score(request)).model.version == second
        await follow(None)
        assert held.trial.report()["state"] == "off"
        assert (await held.score(request)).model.version == first
        await follow(TrialPlan("canary", str(versions / "none"), 1.0))
        await until(lambda: held.trial.report()["state"] == "refused")
        assert "none" in held.trial.report()["refused"]
        assert (await held.score(request)).model.version == first

    trying(versions, TrialPlan("shadow", str(versions / "v2")), act)


async def ask(app: Any, method: str, path: str, content: Any = None) -> Any:
    """The JSON of an answer of the application, without a server."""
    sent: list[Any] = []
    coming = [{"type": "http.request", "body": json.dumps(content).encode(), "more_body": False}]

    async def receive() -> Any:
        return coming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        **{"type": "http", "http_version": "1.1", "method": method, "scheme": "http"},
        **{"path": path, "query_string": b"", "root_path": "", "client": None, "server": None},
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    return json.loads(sent[1]["body"])


def test_the_routes_say_who_answered_and_what_is_tried(versions: Path) -> None:
    """Answers name the canary, and requests are counted as its."""
    first, second = (version_of(versions / name) for name in ("v1", "v2"))
    counted: list[str] = []

    def record(route: str, status: int, version: str, seconds: float) -> None:
        counted.append(version)

    async def run() -> None:
        config = ScorerConfig(model=str(versions), canary=str(versions / "v2"), share=0.5)
        service = ScorerService(config)
        service.metrics.record = record  # type: ignore[method-assign]
        app = create_app(service)
        await service.model.follow(config.model, 60, config.trial)
        await until(lambda: service.model.trial.report()["state"] == "running")
        named = [
            (await ask(app, "POST", "/v1/annotate", {"features": [row.tolist()]}))["model"]
            for row in rows(30)
        ]
        assert set(named) == {first, second}
        await asyncio.sleep(0)  # an answer is counted once it is out
        assert counted == named
        tensor = {"name": "x", "shape": [1, D], "datatype": "FP32", "data": rows(1)[0].tolist()}
        answer = await ask(app, "POST", "/v2/models/drel/infer", {"inputs": [tensor]})
        await asyncio.sleep(0)
        assert answer["model_version"] == named[0] == counted[-1]  # the same row
        found = await ask(app, "GET", "/v1/trial")
        assert (found["live"], found["model"], found["mode"]) == (first, second, "canary")
        assert (found["share"], found["state"], found["refused"]) == (0.5, "running", None)
        drift = await ask(app, "GET", "/v1/drift")
        assert drift["model"] == first and drift["expected_unseen"] == 0.01
        assert (await ask(app, "GET", "/v1/model"))["version"] == first

    asyncio.run(run())


def test_no_request_fails_while_everything_changes(versions: Path) -> None:
    """Plans come and go, ``latest`` moves, a canary breaks."""
    write_drel(versions / "broken", seed=8, decider=random_decider(TAGS))
    damage(versions / "broken")
    seen: set[str] = set()

    async def act(held: HotSwapModel) -> None:
        stop = False

        async def client(number: int) -> None:
            count = 0
            while not stop:
                rows_BD = rows(1 + count % 3, seed=1000 * number + count)
                answer = await held.score(asked(rows_BD, k=1 + count % 7))
                assert len(answer.score_Bk) == len(rows_BD)
                seen.add(answer.model.version)
                count += 1
                await asyncio.sleep(0)

        clients = [asyncio.create_task(client(number)) for number in range(6)]
        for step in range(24):
            publish(versions, ("v1", "v2")[step // 5 % 2])
            other = str(versions / ("v2", "v1", "broken", "none")[step % 4])
            plans = (TrialPlan("canary", other, 0.5), TrialPlan("shadow", other), None)
            await held.follow(str(versions), 60, plans[step // 4 % 3])
            await asyncio.sleep(0.03)
        stop = True
        await asyncio.gather(*clients)

    trying(versions, TrialPlan("canary", str(versions / "v2"), 0.5), act, poll_seconds=60)
    assert seen == {version_of(versions / "v1"), version_of(versions / "v2")}

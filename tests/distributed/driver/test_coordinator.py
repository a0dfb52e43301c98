"""What the driver learns of a run's failures: steps lost, time to go on, and when it is enough."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path

import pytest
import ray

from distributed.driver.coordinator import RunCoordinator, failure_summary
from distributed.runtime.capacity import Capacity, check_feasible, fits, grows_by, shortage
from distributed.runtime.signals import LoopAction, Stopped, StopRequest
from distributed.runtime.worker_range import Workers
from distributed.training import collectives
from distributed.training.heartbeat import Heartbeat
from drel_core.errors import InputError
from tests.helpers.ranks import spawn_ranks


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lost_steps_and_the_time_to_go_on_are_told() -> None:
    clock = Clock()
    coordinator = RunCoordinator(failures=2, every=50, clock=clock)
    assert coordinator.may_begin()
    coordinator.begin(2, 0)
    assert coordinator.beat(80, 5) == LoopAction.GO_ON
    coordinator.checkpoint_saved(50)
    clock.now += 3
    for _ in range(9):  # the controller looks again and again; it is one failure
        coordinator.failure("lost worker 1 (process or node gone)", "…")
    assert not coordinator.status(0).running
    clock.now += 11
    assert coordinator.status(0).idle == 14
    coordinator.begin(1, 50)
    clock.now += 1
    coordinator.beat(51, 1)
    assert coordinator.status(0).lines == [
        "lost worker 1 (process or node gone); starting again from the last checkpoint",
        "going on after 15.0 s with 1 worker (2 before) from step 50: at most 35 steps lost",
    ]
    assert coordinator.status(1).running and len(coordinator.status(1).lines) == 1


def test_no_more_steps_than_lie_between_checkpoints_can_be_lost() -> None:
    coordinator = RunCoordinator(failures=2, every=50, clock=Clock())
    coordinator.begin(2, 0)
    coordinator.beat(90, 30)  # the next checkpoint, at 100, would have been told
    coordinator.checkpoint_saved(50)
    coordinator.begin(3, 50)
    coordinator.beat(51, 1)
    assert coordinator.status(0).lines[-1].endswith("at most 50 steps lost")


def test_failing_again_and_again_at_one_place_ends_the_run() -> None:
    coordinator = RunCoordinator(failures=2, every=50, clock=Clock())
    for checkpoint in (50, 100, 150):  # each attempt gets further
        assert coordinator.may_begin()
        coordinator.checkpoint_saved(checkpoint)
        coordinator.failure("worker 0 failed: ValueError: x", "the traceback")
    assert coordinator.may_begin()
    coordinator.failure("worker 0 failed: ValueError: x", "the traceback")
    assert coordinator.may_begin()
    coordinator.failure("worker 0 failed: ValueError: x", "the traceback")
    assert not coordinator.may_begin()
    given_up = coordinator.status(0).given_up
    assert given_up and "3 times in a row" in given_up and given_up.endswith("\nthe traceback")


def test_wrong_input_is_not_tried_again() -> None:
    coordinator = RunCoordinator(failures=2, every=50, clock=Clock())
    assert coordinator.may_begin()
    coordinator.refuse("checkpoint of another seed")
    coordinator.failure("worker 0 failed: InputError: checkpoint of another seed", "")
    assert not coordinator.may_begin()
    assert (
        coordinator.status(0).refused == "checkpoint of another seed"
        and coordinator.status(0).lines == []
    )


def test_of_several_failures_the_dead_worker_is_the_one_that_is_told() -> None:
    peer = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    died = ray.exceptions.ActorDiedError()
    assert failure_summary({0: peer, 2: died}) == "lost worker 2 (process or node gone)"
    assert failure_summary({1: died, 0: died}) == "lost workers 0, 1 (process or node gone)"
    assert (
        failure_summary({1: ValueError("first\n  the reason\n")})
        == "worker 1 failed: ValueError: the reason"
    )


ONE = {"CPU": 1.0}


def test_what_is_waited_for_is_told() -> None:
    have = Capacity({"CPU": 3.0}, {"CPU": 1.0}, grows=False)
    assert shortage(ONE, 2, have) == (
        "waiting for 2 more workers of 1 CPU: the cluster has 1 of 3 CPUs free; "
        "it has no autoscaler, so nodes must be added by hand"
    )
    both = {"CPU": 1.0, "GPU": 1.0}
    line = shortage(both, 1, Capacity({"CPU": 8}, {"CPU": 8}, True, {"CPU": 32, "GPU": 4}))
    assert line == (
        "waiting for 1 more worker of 1 CPU and 1 GPU: the cluster has 8 of 8 CPUs free, 0 of 0 GPUs "
        "free; its autoscaler may start nodes up to 32 CPUs, 4 GPUs"
    )
    assert fits(both, {"CPU": 8, "GPU": 3.0}) == 3 and fits(both, {"CPU": 8}) == 0


def test_more_than_the_autoscaler_may_start_is_refused() -> None:
    limit = Capacity({"CPU": 1}, {"CPU": 1}, True, {"CPU": 4})
    check_feasible(ONE, 4, limit)
    check_feasible(ONE, 400, Capacity({"CPU": 1}, {"CPU": 1}))
    with pytest.raises(InputError, match=r"--workers 5 need 5 CPUs.*can grow to 4"):
        check_feasible(ONE, 5, limit)


def test_an_autoscaler_that_only_looks_is_told_from_one_that_starts_nodes() -> None:
    def status(**types: int) -> bytes:
        return json.dumps({"autoscaler_report": {"active_nodes": types}}).encode()

    assert grows_by(status(node_0123abc=1)) is False
    assert grows_by(status(head=1)) is True
    assert grows_by(None) is None and grows_by(b'{"load_metrics_report": {}}') is None


@pytest.mark.parametrize(
    ("given", "least", "most", "text"),
    [("3", 3, 3, "3"), (2, 2, 2, "2"), ("2:8", 2, 8, "2:8"), ("2:2", 2, 2, "2:2")],
)
def test_numbers_of_workers(given: str | int, least: int, most: int, text: str) -> None:
    workers = Workers(given)
    assert (workers.least, workers.most, str(workers)) == (least, most, text)
    assert workers.elastic == (least < most)
    again = pickle.loads(pickle.dumps(workers))
    assert (again.least, again.most) == (least, most)
    assert json.loads(json.dumps(workers)) == text and Workers(workers) == workers


@pytest.mark.parametrize("given", ["0", "x", "8:2", "2:", ":3", "0:4", "2:3:4", "-1"])
def test_what_is_no_number_of_workers(given: str) -> None:
    with pytest.raises(ValueError, match="workers is"):
        Workers(given)


def test_the_first_signal_is_noted_and_the_second_stops_at_once() -> None:
    with StopRequest() as asked:
        asked.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.signum == signal.SIGTERM
        with pytest.raises(Stopped):
            asked.check()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def work_beats(stop_at: int) -> list[tuple[int, int]]:
    """Steps and orders of a rank whose clock differs from the others'."""
    import time

    told: list[int] = []

    def ask(done: int, until: int) -> int:
        told.append(done)
        return LoopAction.STOP if done >= stop_at else LoopAction.GO_ON

    heartbeat = Heartbeat(ask=ask, seconds=0.02)
    heartbeat.begin(0)
    heard = []
    for done in range(1, 400):
        time.sleep(0.001 * collectives.rank())
        order = heartbeat.after_step(done)
        heard.append((done, int(order)))
        if order is LoopAction.STOP:
            break
    return heard


def test_all_ranks_hear_the_same_order_after_the_same_step(tmp_path: Path) -> None:
    heard = spawn_ranks(3, work_beats, tmp_path, 100)
    assert heard[0] == heard[1] == heard[2]
    last, order = heard[0][-1]
    assert order == LoopAction.STOP and 100 <= last < 200

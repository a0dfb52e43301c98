from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.runtime import tasks
from distributed.runtime.signals import Stopped, stop_at_once, wish_to_stop
from distributed.runtime.tasks import INLINE_BYTES, map_on_ray, map_units
from tests.helpers.stores import write_planted


class Started(Exception):
    pass


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_ray(workers: int) -> None:
        raise Started(workers)

    monkeypatch.setattr(tasks, "start_ray", start_ray)


@pytest.mark.usefixtures("no_ray")
def test_little_is_done_in_this_process_and_for_much_ray_is_started() -> None:
    assert list(map_units(abs, [-1, 2], INLINE_BYTES)) == [1, 2]
    with pytest.raises(Started, match="3"):
        list(map_units(abs, [-1, 2], INLINE_BYTES + 1, workers=3))


@pytest.mark.usefixtures("no_ray")
def test_a_large_store_is_surveyed_on_ray_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore.open(str(write_planted(tmp_path / "a.parquet", 50)))
    assert store.num_bytes == 50 * 16 * 4
    monkeypatch.setattr(tasks, "INLINE_BYTES", store.num_bytes)
    assert survey_store(store, "fail").num_bytes == store.num_bytes
    monkeypatch.setattr(tasks, "INLINE_BYTES", store.num_bytes - 1)
    with pytest.raises(Started, match="2"):
        survey_store(store, "fail", workers=2)


@pytest.fixture
def stops_on_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, stop_at_once)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("shared_ray", "stops_on_sigterm")
def test_a_stop_is_seen_while_tasks_run_long() -> None:
    assert list(map_on_ray(abs, [-1])) == [1]  # a worker is there
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    started = time.perf_counter()
    timer.start()
    with pytest.raises(BaseException) as stopped:  # which one it is, wish_to_stop says
        list(map_on_ray(time.sleep, [8.0]))
    assert isinstance(wish_to_stop(stopped.value), Stopped)
    assert time.perf_counter() - started < 4

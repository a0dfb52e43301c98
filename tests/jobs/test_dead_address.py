"""A cluster that does not answer is one line within half a minute; a job ends at once when it is asked to."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distributed.runtime import ray_session
from tests.helpers.commands import ROOT, SMALL, run, start
from tests.helpers.stores import write_planted


def options(folder: Path) -> list[object]:
    store = write_planted(folder / "train.parquet", 40)
    return ["--data.train", store, "--out", folder / "out", "--epochs", 1, *SMALL]


def test_nothing_at_ray_address_is_one_line(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("train", *options(tmp_path), RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert time.monotonic() - started < 30
    assert done.stderr.count("\n") == 1
    assert "RAY_ADDRESS=127.0.0.1:1: nothing answers there (Connection refused)" in done.stderr


def test_a_port_that_says_nothing_does_not_keep_a_job_from_ending(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with start("train", *options(tmp_path), RAY_ADDRESS=address) as process:
            silent.accept()  # the look whether anything is there; Ray itself tries next
            time.sleep(2)
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, complained = process.communicate(timeout=20)
            assert time.monotonic() - asked < 8
    assert process.returncode == 143, complained
    assert "Traceback" not in complained


def test_joining_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "_JOIN_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        ray_session._in_time(lambda: time.sleep(30))
    with pytest.raises(KeyError):
        ray_session._in_time(lambda: {}["what is raised there is raised here"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_imports_is_no_traceback(signum: signal.Signals) -> None:
    """Sent from within the imports, when torch begins to be imported."""
    hook = (
        "import os, runpy, signal, sys\n"
        # Where the tests run in the background of a shell, children inherit that it is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Send:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == 'torch': os.kill(os.getpid(), {int(signum)})\n"
        "sys.meta_path.insert(0, Send())\n"
        "sys.argv = ['-m']\n"
        "import jobs\n"
        "sys.argv = ['train', '--help']\n"
        "runpy.run_module('jobs.train', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", hook], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signum
    assert done.stderr == "stopped before anything was done\n" and not done.stdout

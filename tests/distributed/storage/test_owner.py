"""One owner of an output folder: who it is, when it is gone, and who gets it then."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distributed.storage import owner
from distributed.storage.folder import Folder
from distributed.storage.owner import LOCK, Owner, owned
from drel_core.errors import InputError
from tests.helpers.commands import ROOT
from tests.helpers.s3_server import Bucket

HOLD = """
import sys, time
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
with owned(Folder.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "out"))
    bucket: Bucket = request.getfixturevalue("s3")
    return Folder.of(bucket.at("some/out"))


@contextmanager
def holder(out: Folder) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, out.address]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def foreign(out: Folder, beat: float, machine: str = "another start of another machine") -> Owner:
    """The lock of a run on another machine."""
    there = Owner("elsewhere", 7, "2026-01-01 00:00:00 UTC", machine, beat=int(beat))
    out.write(LOCK, json.dumps(vars(there)).encode())
    return there


def test_a_second_run_is_told_who_works_there_until_it_is_killed(out: Folder) -> None:
    with holder(out) as process:
        with pytest.raises(InputError) as refused, owned(out):
            raise AssertionError("two owners")
        assert (
            f"another run works there: process {process.pid} on {socket.gethostname()}, since"
            in (str(refused.value))
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lines = list[str]()
        with owned(out, lines.append):
            pass
        (line,) = lines
        assert f"taken over from process {process.pid} on" in line and "has ended" in line


def test_nothing_is_left_of_a_lock(out: Folder) -> None:
    with owned(out):
        assert out.has(LOCK)
    assert not out.files() and (out.remote or not out.path.exists())
    with pytest.raises(KeyError), owned(out):
        out.write("kept", b"1")
        raise KeyError
    with owned(out, lambda line: pytest.fail(line)):
        pass
    assert list(out.files()) == ["kept"]


def test_of_many_at_once_one_gets_it(out: Folder) -> None:
    won, lost = list[int](), list[str]()
    start, end = threading.Barrier(6), threading.Event()

    def run(number: int) -> None:
        start.wait()
        try:
            with owned(out):
                won.append(number)
                end.wait(20)
        except InputError as error:
            lost.append(str(error))
            if len(lost) == 5:
                end.set()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1 and len(lost) == 5


def test_a_run_of_another_machine_that_gives_signs_of_life_keeps_its_folder(
    out: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SILENT", 5.0)
    there, stop = foreign(out, time.time()), threading.Event()

    def live() -> None:
        while not stop.wait(0.3):
            foreign(out, time.time() + 1)

    with_life = threading.Thread(target=live)
    with_life.start()
    try:
        with pytest.raises(InputError, match=f"process 7 on {there.host}"), owned(out):
            raise AssertionError("two owners")
    finally:
        stop.set()
        with_life.join()
    assert out.has(LOCK)  # the other's, still


def test_a_run_of_another_machine_is_gone_when_it_is_silent(
    out: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SILENT", 1.0)
    lines = list[str]()
    foreign(out, time.time())
    started = time.monotonic()
    with owned(out, lines.append):
        assert time.monotonic() - started >= 1.0
    assert len(lines) == 2 and "looking for 1 s" in lines[0] and "taken over" in lines[1]
    foreign(out, time.time() - 700)  # long ago by any clock: nobody need watch
    started = time.monotonic()
    with owned(out, lines.append):
        assert time.monotonic() - started < 1.0
    assert "silent for 70" in lines[-1]


def test_the_owner_gives_signs_of_life(out: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.2)
    with owned(out):
        place = owner._S3Place(out) if out.remote else owner._LocalPlace(out.path)
        before = place.read()[1]
        deadline = time.monotonic() + 10
        while place.read()[1] == before:  # on S3 once a second: the content is the time
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_an_owner_whose_folder_was_taken_stops(
    out: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.1)
    got = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: got.set())
    try:
        with owned(out):
            foreign(out, time.time())
            assert got.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "process 7 on elsewhere, since" in capsys.readouterr().err
    assert out.has(LOCK)


def test_the_lock_outlasts_spoiled_requests(s3: Bucket) -> None:
    out = Folder.of(s3.at("out"))
    s3.proxy.rate = 0.3
    for _ in range(5):
        with owned(out, lambda line: pytest.fail(line)):
            _refused(out)
    assert s3.proxy.injected


def _refused(out: Folder) -> None:
    with pytest.raises(InputError, match="another run works there"), owned(out):
        raise AssertionError("two owners")


def test_of_two_machines_one_gets_a_bucket(s3: Bucket) -> None:
    out = Folder.of(s3.at("out"))
    one, other = owner._S3Place(out), owner._S3Place(out)
    (_, state), (_, too) = one.read(), other.read()
    assert one.replace(b"one", state) and not other.replace(b"other", too)
    (_, state), (_, too) = one.read(), other.read()
    assert other.replace(b"other", too) and not one.replace(b"one", state)
    assert one.read()[0] == b"other"


def test_a_lock_that_a_full_disk_left_empty_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"")
    with owned(Folder(str(tmp_path)), lambda line: pytest.fail(line)):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    wrong = r"file/out: --out cannot be written \(Not a directory\)"
    with pytest.raises(InputError, match=wrong), owned(Folder(str(tmp_path / "file" / "out"))):
        pass

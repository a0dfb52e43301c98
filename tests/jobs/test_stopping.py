"""A signal ends a job, whatever compiled code makes of it on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distributed.runtime.signals import Stopped, wish_to_stop
from distributed.storage.files import write_bytes
from jobs import compare
from jobs.cli import run_job


def as_ray_wait(signal: BaseException) -> BaseException:
    """What ``ray.wait`` makes of an exception that a signal handler raises."""
    try:
        raise SystemError("wait returned a result with an exception set") from signal
    except SystemError as error:
        return error


def in_a_clean_up(signal: BaseException) -> BaseException:
    try:
        try:
            raise signal
        finally:
            raise OSError("the folder is gone")
    except OSError as error:
        return error


WRAPPED = [lambda signal: signal, as_ray_wait, in_a_clean_up]


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(("signal", "status"), [(Stopped(15), 143), (KeyboardInterrupt(), 130)])
def test_the_exit_status_is_the_signals(
    wrapped: Callable[[BaseException], BaseException],
    signal: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["job"])

    def main(_: list[str]) -> None:
        raise wrapped(signal)

    with pytest.raises(SystemExit) as ended:
        run_job(main)
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith("stopped;")


def test_what_keeps_nothing_does_not_say_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["job"])

    def main(_: list[str]) -> None:
        raise Stopped(15)

    for goes_on, said in ((True, "goes on from the last checkpoint"), (False, "begins anew")):
        with pytest.raises(SystemExit):
            run_job(main, goes_on)
        assert capsys.readouterr().err == f"stopped; the same command {said}\n"
    for given in ("--dry_run", "--dry-run", "--dry-run=true"):  # it has written nothing
        monkeypatch.setattr("sys.argv", ["job", given])
        with pytest.raises(SystemExit):
            run_job(main, goes_on=True)
        assert capsys.readouterr().err == "stopped; the same command begins anew\n"


def test_other_errors_and_exits_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["job"])

    def fails(_: list[str]) -> None:
        raise OSError("a disk is gone")

    def ends(_: list[str]) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(3) from None

    with pytest.raises(OSError, match="a disk is gone"):
        run_job(fails)
    with pytest.raises(SystemExit) as ended:
        run_job(ends)
    assert ended.value.code == 3
    error = ValueError()
    error.__context__ = other = OSError()
    other.__context__ = error
    assert wish_to_stop(error) is None and wish_to_stop(None) is None


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_method_that_is_stopped_is_not_one_that_failed(
    wrapped: Callable[[BaseException], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise wrapped(Stopped(15))

    monkeypatch.setattr(compare, "run_entry", stopped)
    config = compare.CompareConfig(data=compare.CompareData(train="a", test="b"), out="c")
    with pytest.raises(Stopped):
        compare.attempt(config, "svm")


@pytest.mark.parametrize("wrapped", [lambda error: error, lambda error: RuntimeError(str(error))])
def test_s3_that_went_away_is_one_line(
    wrapped: Callable[[BaseException], BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["job"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")

    def writes(_: list[str]) -> None:
        try:
            write_bytes("s3://bucket/key", b"1")
        except OSError as error:
            raise wrapped(error) from None

    with pytest.raises(SystemExit) as ended:
        run_job(writes)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: S3 does not answer any more (When uploading object with key 'key'"
    )
    assert said.count("\n") == 1

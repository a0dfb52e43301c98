"""A journey goes on where it was, and past what fails; a tiny one runs every verb."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.journey import PARTS, Journey, Part, Result, main, run_part, table, travel
from benchmarks.processes import descendants
from tests.helpers.commands import ROOT


@pytest.fixture
def journey(tmp_path: Path) -> Journey:
    made = Journey(tmp_path, tmp_path / "store", ("--rows", "1"), 1, None)
    made.parts.mkdir()
    return made


def good(journey: Journey) -> Result:
    result = journey.run("good", "-c", "print('done')", rows=100)
    result.lines = [("DREL", {"F1": 0.5, "N+": 1234, "oF1": 0.25}), ("floor", {"F1": 0.125})]
    result.note = journey.said("good").strip()
    return result


def bad(journey: Journey) -> Result:
    return journey.run("bad", "-c", "import sys; print('what is wrong'); sys.exit(3)", rows=1)


def unable(journey: Journey) -> Result:
    raise AssertionError("its part before has failed")


def test_what_is_done_is_kept_what_failed_is_tried_again_and_what_needs_it_waits(
    journey: Journey,
) -> None:
    parts = {
        "good": Part(good),
        "bad": Part(bad),
        "after": Part(unable, ("bad",)),
        "last": Part(good),
    }
    results = travel(journey, ["good", "bad", "after", "last"], parts)
    assert 0 < results["good"].seconds < 20 and results["good"].peak_bytes > 1 << 18
    assert results["bad"].failed == "exit code 3: what is wrong"
    assert results["after"].failed == "needs bad" and not results["last"].failed
    lines = (journey.out / "table.md").read_text("utf-8").splitlines()
    assert len(lines) == 2 + 2 + 1 + 1 + 2
    assert lines[2].startswith("| good | ") and lines[2].endswith(
        "| DREL | 0.500 | 1,234 | 0.250 |  | done |"
    )
    assert lines[3] == "|  |  |  |  | floor | 0.125 |  |  |  |  |"
    assert lines[4].endswith("| failed: exit code 3: what is wrong |")
    assert json.loads((journey.out / "journey.json").read_text())["last"]["rows"] == 100

    parts |= {"good": Part(unable), "bad": Part(good), "after": Part(good, ("bad",))}
    again = travel(journey, ["bad", "after"], parts)
    assert list(again) == list(results) and again["good"] == results["good"]
    assert not again["bad"].failed and not again["after"].failed


def test_seconds_before_a_stop_count(journey: Journey) -> None:
    def stopped(_: Journey) -> Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_part(journey, "part", {"part": Part(stopped, resumes=True)})
    kept = journey.parts / "part.stopped.json"
    assert 0 <= json.loads(kept.read_text()) < 10 and not (journey.parts / "part.json").exists()
    kept.write_text("100.0")
    assert run_part(journey, "part", {"part": Part(lambda _: Result(5.0))}).seconds == 105.0
    assert not kept.exists()


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
from pathlib import Path
from benchmarks.journey import Journey, Part, travel
work = lambda journey: journey.run("part", "-c", "import time; print(1, flush=True); time.sleep(60)", rows=1)
journey = Journey(Path(sys.argv[1]), Path(sys.argv[1]), (), 1, None)
travel(journey, ["part"], {"part": Part(work, resumes=True)})
"""


def test_ctrl_c_ends_the_command_too(tmp_path: Path) -> None:
    words = [sys.executable, "-c", STOPPED, str(tmp_path)]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log, until = tmp_path / "parts" / "part.log", time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    (below,) = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert not Path(f"/proc/{below}").exists()
    assert (tmp_path / "parts" / "part.stopped.json").exists()


def test_a_part_that_failed_has_one_line() -> None:
    said = table(
        {"train": Result(3.0, failed="exit code 1: no"), "update": Result(failed="needs train")}
    )
    assert said.splitlines()[2:] == [
        "| train | 3.0 |  |  |  |  |  |  |  | failed: exit code 1: no |",
        "| update |  |  |  |  |  |  |  |  | failed: needs train |",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "10", "20", "--tags", "5"], "as many numbers"),
        (["--rows", "10", "--tags", "5", "--yardstick", "none.py"], "there is no such file"),
        (["--store", "none"], "make_store has not made it"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*options, "--out", str(tmp_path)])
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_a_tiny_journey_runs_every_verb(tmp_path: Path) -> None:
    sizes = ["--rows", "600", "--tags", "40", "--dim", "16", "--workers", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*sizes, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "journey.json").read_text("utf-8"))
    assert ended.value.code == 0, results
    assert list(results) == [
        name for name in PARTS if name not in ("yardstick", "retrain", "compare")
    ]
    for name, one in results.items():
        assert one["seconds"] > 0 and one["peak_bytes"] > 50 << 20, name
    drel, floor = (metrics for _, metrics in results["evaluate"]["lines"])
    assert drel["F1"] > floor["F1"] > 0
    assert [scored for scored, _ in results["update"]["lines"]] == [
        "old tags before",
        "old tags after",
        "new tags after",
    ]
    assert "p50" in results["serve"]["note"]

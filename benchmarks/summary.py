"""A few of the benchmarks, one after another, and one page of their figures.

    python -m benchmarks.summary --out docs/benchmarks.md      about ten minutes on two cores
    python -m benchmarks.summary --quick                        smaller sizes, for a look; prints the page
    python -m benchmarks.summary --only step,read

Every figure is read from what a benchmark printed, and stands beside the command that printed it. The page
is written when all have run; where one fails, none is.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

STORE = "STORE"
"""In a command: the store that ``make_store`` made."""


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark's output.

    Args:
        what: what it says.
        pattern: finds it as the group ``figure``; of several places the last counts.
        unit: what it is in.
        beside: the same, finds what it is measured against.
        floor: what that is.
    """

    what: str
    pattern: str
    unit: str
    beside: str = ""
    floor: str = ""


@dataclass(frozen=True)
class Part:
    """A benchmark.

    Args:
        command: what follows ``python -m``.
        full, quick: its sizes.
        stores: it reads the store.
    """

    command: str
    full: str
    quick: str
    figures: tuple[Figure, ...]
    stores: bool = field(default=False)

    def words(self, quick: bool, store: Path | str = STORE) -> list[str]:
        words = shlex.split(f"{self.command} {self.quick if quick else self.full}")
        return [word.replace(STORE, str(store)) for word in words]


NUMBER = r"(?P<figure>[\d,.]+)"


def step(precision: str) -> Part:
    return Part(
        f"benchmarks.train_step --precision {precision}",
        "--dim 4096 --batch 1024 --tags 81 --seconds 10",
        "--dim 256 --batch 64 --tags 81 --literal 16 --seconds 0.2",
        (
            Figure(
                f"a step of training, {precision}",
                rf"^pooled .* {NUMBER} images/s",
                "images/s",
                r"^matmul .*: (?P<figure>[\d.]+%)",
                "of the rate of plain matmuls",
            ),
            Figure(
                "its triplets",
                rf"^pooled .* {NUMBER} triplets/s",
                "triplets/s",
                r"^ratio +(?P<figure>[\d.]+) x",
                "times the step triplet by triplet",
            ),
        ),
    )


PARTS = {
    "step": step("fp32"),
    "step-bf16": step("bf16"),
    "read": Part(
        f"benchmarks.store_read --store {STORE}/train --threads 1",
        "--repeat 3",
        "--repeat 1",
        (
            Figure(
                "reading a local store, one thread",
                rf": {NUMBER} rows/s",
                "rows/s",
                r"rows/s, (?P<figure>[\d,]+) MiB/s",
                "MiB/s",
            ),
        ),
        stores=True,
    ),
    "annotate": Part(
        f"benchmarks.annotate --store {STORE} --tags 1000",
        "--share 4",
        "--share 4",
        (
            Figure(
                "jobs.annotate in steady state, D = 256, 1000 tags",
                rf"^jobs.annotate, steady {NUMBER} rows/s",
                "rows/s",
                r"^jobs.annotate, steady .* rows/s, (?P<figure>[\d.]+)",
                "of the bare scorer without Ray",
            ),
            Figure(
                "the whole command, start of Ray included",
                rf"^jobs.annotate, whole {NUMBER} rows/s",
                "rows/s",
                r"^jobs.annotate, whole .* rows/s, (?P<figure>[\d.]+)",
                "of the bare scorer without Ray",
            ),
        ),
        stores=True,
    ),
    "serve": Part(
        "benchmarks.serving --tags 374",
        "--rounds 1 --seconds 4",
        "--rounds 1 --seconds 0.5",
        tuple(
            Figure(
                f"scorer, {body}, {clients} client{'s' if clients > 1 else ''}, D = 1280, 374 tags",
                rf"^\| {body} \| {clients} \| {NUMBER} \|",
                "answers/s",
                rf"^\| {body} \| {clients} \| [\d,.]+ \| (?P<figure>[\d.]+) \|",
                "ms (median)",
            )
            for body, clients in (("json", 1), ("json", 64), ("binary", 1), ("binary", 64))
        ),
    ),
}
_STORE = "benchmarks.make_store --rows 200000 --dim 256 --tags 1000 --out"
_QUICK_STORE = "benchmarks.make_store --rows 60000 --dim 256 --tags 1000 --out"


class Failed(Exception):
    """A benchmark ended in an error, or did not say what it was to say."""


def ran(words: list[str], said: Callable[[str], None]) -> str:
    """What ``python -m WORDS`` printed.

    Raises:
        Failed: it ended in an error.
    """
    said(f"python -m {shlex.join(words)}")
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise Failed(f"python -m {shlex.join(words)}: exit code {done.returncode}\n{last}")
    return done.stdout


def found(pattern: str, output: str, command: str) -> str:
    """The figure that a pattern finds.

    Raises:
        Failed: it finds none.
    """
    every = list(re.finditer(pattern, output, re.MULTILINE))
    if not every:
        raise Failed(f"python -m {command} printed nothing like {pattern!r}:\n{output[-2000:]}")
    return every[-1]["figure"].rstrip(",.")


def rows(name: str, quick: bool, store: Path, said: Callable[[str], None]) -> Iterator[str]:
    """A part's lines of the table.

    Raises:
        Failed: see ``ran`` and ``found``.
    """
    part = PARTS[name]
    started = time.perf_counter()
    output = ran(part.words(quick, store), said)
    seconds = time.perf_counter() - started
    command = shlex.join(part.words(quick))
    for place, figure in enumerate(part.figures):
        number = found(figure.pattern, output, command)
        beside = f"{found(figure.beside, output, command)} {figure.floor}" if figure.beside else ""
        ending = f"`python -m {command}` | {seconds:.0f}" if place == 0 else "the same |"
        yield f"| {figure.what} | {number} {figure.unit} | {beside} | {ending} |"


def machine() -> list[tuple[str, str]]:
    """What the figures must be read with."""
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", f"`{_commit()}`"),
        ("CPU", f"{_cpu()}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("torch, Ray", f"{version('torch')}, {version('ray')}"),
        ("other work before", f"load average {os.getloadavg()[0]:.1f} over a minute"),
    ]


def _commit() -> str:
    """As git names it, with ``-dirty`` where tracked files are changed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "no git checkout"


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text("utf-8")
    named = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def page(names: list[str], quick: bool, given: str, said: Callable[[str], None] = print) -> str:
    """Run parts and make the page.

    Args:
        given: the command that asks for it.

    Raises:
        Failed: a benchmark did not end well.
    """
    about, started = machine(), time.perf_counter()
    make = shlex.split(_QUICK_STORE if quick else _STORE)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        if any(PARTS[name].stores for name in names):
            ran([*make, str(store)], said)
        for name in names:
            lines += rows(name, quick, store, said)
    minutes = (time.perf_counter() - started) / 60
    about.append(("together", f"{minutes:.0f} minutes"))
    return "\n".join(
        [
            "# Benchmarks of one run",
            "",
            "How fast is one small machine, and which command says so on yours?",
            "",
            f"One run of `{given}` wrote this page; the numbers are what the commands printed. Trust ratios",
            "more than rates: such machines are shared. More, and larger: [performance.md](performance.md).",
            *(["", "**A quick look at small sizes. These figures say little.**"] if quick else []),
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in about),
            "",
            "| what | figure | beside | command | s |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"{STORE} is made by `python -m {shlex.join(make)} {STORE}`. Client, proxy and replica of the",
            "scorer share the cores.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="page to write; without it the page is printed")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for a look")
    given = parser.parse_args()
    names = given.only.split(",")
    if wrong := [name for name in names if name not in PARTS]:
        parser.error(f"--only {wrong[0]}: choose some of {', '.join(PARTS)}")
    command = f"python -m benchmarks.summary {shlex.join(sys.argv[1:])}".strip()
    try:
        text = page(
            names, given.quick, command, lambda line: print(line, file=sys.stderr, flush=True)
        )
    except Failed as error:
        sys.exit(f"error: {error}")
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
        print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

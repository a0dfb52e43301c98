"""The summary's figures are what benchmarks print, or there is no page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import annotate, summary
from benchmarks.summary import PARTS, Failed, Figure, Part, found, main, page
from tests.helpers.commands import ROOT


def test_a_page_of_a_real_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["summary", "--quick", "--only", "step", "--out", str(out)])
    main()
    text = out.read_text("utf-8")
    assert text.startswith("# Benchmarks of one run\n\nHow fast ")
    step = r"\| a step of training, fp32 \| [\d,]+ images/s \| [\d.]+% of the rate .* \| `python -m (.*)` "
    (command,) = re.findall(rf"{step}\| \d+ \|", text)
    assert command.startswith("benchmarks.train_step --precision fp32 --dim 256")
    assert re.search(r"\| its triplets \| [\d,]+ triplets/s \| [\d.]+ times the step", text)
    for about in (
        "date | 20",
        "commit | `",
        "CPU | ",
        "memory | ",
        "torch, Ray | ",
        "load average",
    ):
        assert f"| {about}" in text
    assert (
        "A quick look" in text and "STORE" not in text.split("| s |")[1].split("STORE is made")[0]
    )


@pytest.mark.parametrize(
    ("command", "pattern", "line"),
    [
        ("benchmarks.nothing", "x", "exit code 1"),
        ("benchmarks.train_step --help", "(?P<figure>no such line)", "printed nothing like"),
    ],
)
def test_a_benchmark_that_does_not_end_well_leaves_no_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, pattern: str, line: str
) -> None:
    monkeypatch.setitem(PARTS, "step", Part(command, "", "", (Figure("a", pattern, "b"),)))
    out = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["summary", "--only", "step", "--out", str(out)])
    with pytest.raises(SystemExit, match=line):
        main()
    assert not out.exists()


def test_the_last_of_several_figures_counts() -> None:
    output = "in 2 s: 1,000 rows/s, 5 MiB/s\nin 1 s: 2,000 rows/s, 9 MiB/s\n"
    assert found(PARTS["read"].figures[0].pattern, output, "x") == "2,000"
    assert found(PARTS["read"].figures[0].beside, output, "x") == "9"


def test_patterns_read_what_the_benchmarks_print() -> None:
    """Of those that take too long for a test: the words that they print are in their source."""
    rates = (
        "jobs.annotate, whole 19,706 rows/s, 0.30\njobs.annotate, working 1 rows/s, 0.5\n"
        "jobs.annotate, steady 68,566 rows/s, 1.05\n"
    )
    serve = "".join(
        f"| {body} | {clients} | 869 | 1.1 | 9.9 | 1 | 1 | 1 | 1 | 1 | 1 |\n"
        for body in ("json", "binary")
        for clients in (1, 16, 64)
    )
    for name, output in (("annotate", rates), ("serve", serve)):
        for figure in PARTS[name].figures:
            assert found(figure.pattern, output, name) and found(figure.beside, output, name)
    source = (ROOT / "benchmarks" / "annotate.py").read_text("utf-8")
    assert (
        'f"jobs.annotate, {which} {found[which]:,.0f} rows/s, {found[which] / max(rates):.2f}"'
        in source
    )
    source = (ROOT / "benchmarks" / "serving.py").read_text("utf-8")
    assert 'f"| {name} | {clients} | {ours.rate:.0f} | {ours.percentile(50):.1f} | "' in source


def test_the_bare_scorer_of_annotate_finds_what_it_imports() -> None:
    """It is a text, which no other check reads."""
    imports = [line for line in annotate.BARE.splitlines() if line.startswith(("import", "from"))]
    exec("\n".join(imports), {})
    assert len(imports) > 2


def test_every_part_is_a_benchmark_with_its_options() -> None:
    for part in PARTS.values():
        for quick in (False, True):
            module, *words = part.words(quick)
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
            assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    with pytest.raises(Failed, match="printed nothing like"):
        found("(?P<figure>a)", "b", "x")
    assert summary.STORE in " ".join(PARTS["annotate"].words(False)) and callable(page)

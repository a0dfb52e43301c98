"""The demo: from the embedded example to a report with pictures, and the two commands that come next."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from distributed.driver.in_process import launch
from drel_core.errors import InputError
from jobs import demo
from jobs.ingest import main as ingest
from jobs.train import parse
from tests.helpers.commands import SMALL


def test_it_ends_with_a_report_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the test part alone, which is learned in seconds."""
    part = str(demo.EXAMPLE / "test.parquet")
    out = tmp_path / "demo"
    options = ["--data.train", part, "--out", str(out), "--workers", "1", "--epochs", "2", *SMALL]
    demo.main(options, launcher=launch)
    said = capsys.readouterr().out
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<img src=") == page.count('class="card"') > 40
    table = page.partition('id="figures"')[2].partition("</table>")[0]
    assert table.count("kNN, k = 100") == table.count("kNN, k chosen") == 3
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"{metrics['F1']:.3f}" in table and f"{metrics['F1']:.3f}" in said
    for name in ("popularity", "kNN, k = 100", "kNN, k chosen", "DREL"):
        assert re.search(rf"^{name} +0\.\d{{3}} ", said, re.MULTILINE), name
    assert re.search(r"^chosen on training rows: k = \d+", said, re.MULTILINE)
    assert len(re.findall(r"^ +\d+  .+  ->  .+%", said, re.MULTILINE)) == demo.SAMPLES
    assert f"report       {out / 'report.html'}" in said

    serve, own = re.findall(r"^  \S+ -m jobs\..+(?:\n +&& .+)?", said, re.MULTILINE)
    assert shlex.split(serve)[1:] == ["-m", "jobs.serve", "--model", str(out)]
    first, then = own.replace("\\\n", "").split("&&")
    config, _, _ = parse(shlex.split(then)[3:])
    assert config.data.train == "STORE" and config.out == "OUT"
    with pytest.raises(InputError, match=r"tags\.csv: no such file"):  # the options are understood
        ingest(shlex.split(first)[3:])

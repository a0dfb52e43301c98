"""What is written to stderr is held, and comes out without the known line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from distributed.runtime.quiet_start import stderr_without
from tests.helpers.commands import ROOT


def test_only_the_known_line_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_without(re.compile(b"known")):
        os.write(2, b"[I] known to be harmless\n\xff not UTF-8\n")
        os.write(2, b"a warning\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "\ufffd not UTF-8\na warning\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_an_error_inside_loses_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="no Ray"), stderr_without(re.compile(b"known")):
        os.write(2, b"why it failed\n")
        raise OSError("no Ray")
    assert capfd.readouterr().err == "why it failed\n"


def test_there_need_be_no_stderr() -> None:
    """As ``2>&-`` leaves it."""
    said = "import re; from distributed.runtime.quiet_start import stderr_without as held\n"
    said += "with held(re.compile(b'known')): print('inside')"
    asked = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, said]
    done = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "inside\n")

"""What a wrong name was meant to be."""

from __future__ import annotations

import pytest

from drel_core.did_you_mean import did_you_mean

OPTIONS = ("--epochs", "--data.train", "--data.test", "--optim.precision", "--decision.epochs")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--optim.epochs", "--epochs"),
        ("--train", "--data.train"),
        ("--epoch", "--epochs"),
        ("--xyzzy", ""),
        ("--", ""),
    ],
)
def test_an_option_that_is_meant(given: str, meant: str) -> None:
    assert did_you_mean(given, OPTIONS) == (f"; did you mean {meant}?" if meant else "")

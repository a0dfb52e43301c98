"""The lines that jobs.serve prints when it is ready do what they say, typed into a shell as they are."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distributed.serving.auth import VARIABLE
from distributed.serving.config import ScorerConfig
from drel_core.bundle.format import read_info
from jobs.curl_lines import curl_lines
from jobs.serve import HttpConfig, _announce
from tests.helpers.bundles import write_drel
from tests.helpers.guarded_server import TOKEN
from tests.helpers.server import Server


def typed(line: str, folder: Path, token: str = TOKEN) -> str:
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={**os.environ, VARIABLE: token},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_a_kept_row_zeros_or_a_picture_is_annotated(guarded: Server, tmp_path: Path) -> None:
    """v1 keeps rows, v2 none; the scorer takes pictures as well, as methods cnn-* do."""
    v1, v2 = guarded.versions / "v1", guarded.versions / "v2"
    info = read_info(v1)
    pixels = replace(info, method="cnn-softmax", pictures={})
    Image.new("RGB", (300, 200), (200, 30, 30)).save(tmp_path / "PICTURE.jpg")
    answers = []
    for bundle, about in ((v1, info), (v2, info), (v2, pixels)):
        _, line, *others = curl_lines(guarded.address, bundle, about, has_token=True)
        assert len(others) == 2
        answer = json.loads(typed(line, tmp_path))
        assert answer["model"] == info.version
        assert len(answer["results"]) == 1 and len(answer["results"][0]["tags"]) == 5
        answers.append(answer["results"])
        assert json.loads(typed(line, tmp_path, "another-token"))["error"]["code"] == "unauthorized"
    row = guarded.ask("/v1/examples?limit=1")[1]["examples"][0]["features"]
    status, wanted, _ = guarded.ask("/v1/annotate", {"features": [row]})
    assert (status, wanted["results"]) == (200, answers[0])
    encoded = base64.b64encode((tmp_path / "PICTURE.jpg").read_bytes()).decode()
    status, wanted, _ = guarded.ask("/v1/annotate", {"images": [encoded]})
    assert (status, wanted["results"]) == (200, answers[2])
    assert answers[0] != answers[1] != answers[2]


@pytest.mark.parametrize(
    ("features", "backbone", "takes"),
    [
        (None, "", False),
        (None, "efficientnet-lite0", True),
        ({"kind": "cnn", "name": "efficientnet-lite0"}, "", True),
        ({"kind": "table"}, "efficientnet-lite0", False),
        ({"columns": {"a": {"kind": "cnn"}, "b": {"kind": "lowlevel"}}}, "", True),
        ({"columns": {"a": {"kind": "cnn"}}}, "", False),
    ],
)
def test_a_picture_is_offered_where_the_scorer_takes_any(
    tmp_path: Path, features: dict[str, Any] | None, backbone: str, takes: bool
) -> None:
    bundle = write_drel(tmp_path / "model")
    named = [{"name": "a", "dim": 4}, {"name": "b", "dim": 4}]
    info = replace(
        read_info(bundle),
        features=features,
        columns=named if features and "columns" in features else None,
    )
    lines = curl_lines("http://localhost:1", bundle, info, False, backbone)
    assert any("@PICTURE.jpg" in line for line in lines) == takes
    assert any('"features"' in line for line in lines)


def test_health_and_page_are_there_without_a_token(guarded: Server, tmp_path: Path) -> None:
    bundle = guarded.versions / "v1"
    _, _, health, page = curl_lines(guarded.address, bundle, read_info(bundle), has_token=True)
    assert json.loads(typed(health, tmp_path, ""))["status"] == "ready"
    assert typed(page, tmp_path, "").lower().startswith("<!doctype html>")


@pytest.mark.parametrize("has_token", [True, False])
def test_a_ready_scorer_says_three_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_token: bool
) -> None:
    bundle = write_drel(tmp_path / "model")
    config = ScorerConfig(model=str(bundle), require_token=has_token)
    _announce(HttpConfig(host="::1", port=8123), config, read_info(bundle), bundle)
    said, warned = capsys.readouterr()
    assert not warned
    first, title, *lines = said.splitlines()
    assert "tags at http://[::1]:8123 (page at /" in first
    assert title == (f"try it, with the token in {VARIABLE}:" if has_token else "try it:")
    assert len(lines) == 3 and all(
        "curl -s" in line and "http://[::1]:8123/" in line for line in lines
    )
    assert (f"Bearer ${VARIABLE}" in said) == has_token


def test_who_may_see_what_is_said_where_all_may_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_drel(tmp_path / "model")
    for pictures in ("", str(tmp_path)):
        config = ScorerConfig(model=str(bundle), pictures=pictures)
        _announce(HttpConfig(host="0.0.0.0"), config, read_info(bundle), bundle)
        warned = capsys.readouterr().err
        assert warned.startswith("warning: whoever reaches 0.0.0.0, port 8000, may ask")
        assert ("see pictures of training" in warned) == bool(pictures)

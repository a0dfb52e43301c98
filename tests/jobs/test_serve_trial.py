"""A canary on real replicas: who answers, what the metrics add up to, what the page shows, how it ends."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from distributed.bundles.locate import find_bundle, publish
from distributed.serving.config import ScorerConfig
from drel_core.bundle.format import read_info
from jobs.serve import announce_trial
from tests.helpers.browser import start_browser
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.server import Server, serving

D = 8
ROWS = 120


def metric(server: Server, name: str) -> float:
    """Of all replicas together."""
    lines = re.findall(rf"^ray_drel_{name}\{{.*\}} (\S+)$", server.ask("/metrics")[1], re.M)
    return sum(map(float, lines))


def shown(browser: webdriver.Chrome, identity: str, words: str) -> str:
    until = time.monotonic() + 30
    while words not in (text := browser.find_element(By.ID, identity).text):
        assert time.monotonic() < until, text
        time.sleep(0.1)
    return text


def answers(server: Server, features_BD: np.ndarray) -> list[str]:
    """The versions that answer these rows, one at a time."""
    found = []
    for row in features_BD.tolist():
        status, answer, _ = server.ask("/v1/annotate", {"features": [row]})
        assert status == 200
        found.append(answer["model"])
    return found


def test_a_canary_from_its_first_request_to_its_end(tmp_path: Path) -> None:
    for seed, name in enumerate(("v1", "v2")):
        write_drel(tmp_path / name, seed=seed, decider=random_decider(12, seed))
    publish(tmp_path, "v1")
    first, second = (find_bundle(tmp_path / name)[1] for name in ("v1", "v2"))
    features_BD = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)
    options = ("--canary", tmp_path / "v2", "--share", "0.3", "--poll_seconds", "0.3")
    with serving(tmp_path, *options, "--replicas", "2", "--threads", "1") as server:
        until = time.monotonic() + 30
        while [server.ask("/v1/trial")[1]["state"] for _ in range(8)] != ["running"] * 8:
            assert time.monotonic() < until, server.ask("/v1/trial")
        named = answers(server, features_BD)
        assert set(named) == {first, second}
        assert answers(server, features_BD[:40]) == named[:40]  # whichever replica it is
        tried = named.count(second) + named[:40].count(second)
        until = time.monotonic() + 60
        while metric(server, "trial_rows_total") < tried:
            assert time.monotonic() < until, server.ask("/metrics")[1]
            time.sleep(0.5)
        assert metric(server, "trial_rows_total") == tried
        assert 0 < metric(server, "trial_agreed_total") < tried
        assert metric(server, "trial_failed_total") == metric(server, "trial_dropped_total") == 0
        counted = re.findall(
            rf'^ray_drel_requests_total\{{.*model="{second}".*\}} (\S+)$',
            server.ask("/metrics")[1],
            re.M,
        )
        assert sum(map(float, counted)) == tried
        browser = start_browser()
        try:
            browser.get(server.address)
            shown(browser, "trial-said", f"Canary {second} answers 30% of the requests.")
            text = shown(browser, "trial-figures", "tags in common")
            assert "rows compared" in text and "probability of the first tag" in text
            publish(tmp_path, "v2")
            until = time.monotonic() + 30
            while [server.ask("/v1/trial")[1]["state"] for _ in range(8)] != ["ended"] * 8:
                assert time.monotonic() < until, server.ask("/v1/trial")
            assert set(answers(server, features_BD[:20])) == {second}
            browser.refresh()
            shown(browser, "trial-said", "The canary has ended: it is the version that answers.")
        finally:
            browser.quit()


def test_what_is_tried_is_one_line_and_what_is_not_there_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live, tried = (read_info(write_drel(tmp_path / f"v{seed}", seed=seed)) for seed in (1, 2))
    base = {"model": str(tmp_path / "v1")}

    def said(**options: Any) -> tuple[str, str]:
        announce_trial(ScorerConfig(**base, **options), live)
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    path = str(tmp_path / "v2")
    assert said() == ("", "")
    share = f"canary: {tried.version} answers 20.00% of the requests (GET /v1/trial)\n"
    assert said(canary=path, share=0.2) == (share, "")
    compared = f"{tried.version} is compared with what {live.version} answers"
    assert said(shadow=path) == (f"shadow: {compared} (GET /v1/trial)\n", "")
    done = f"canary: {live.version} is the version that answers (GET /v1/trial)\n"
    assert said(canary=base["model"]) == (done, "")
    out, warned = said(shadow=str(tmp_path / "none"))
    assert not out and warned.count("\n") == 1
    assert warned.startswith("warning: shadow refused: ") and "none" in warned
    assert f"{live.version} answers everything" in warned

"""A real browser for the scorer's page."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium import webdriver


def start_browser() -> webdriver.Chrome:
    """Chromium without a window. Where there is none a test is skipped, but never in CI."""
    driver = shutil.which("chromedriver")
    if not (driver and shutil.which("chromium")):
        missing = "no browser: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1100,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))

"""The page at / of the scorer: a real browser, a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from distributed.bundles.locate import publish
from drel_core.annotators.load import load_bundle
from tests.helpers.browser import start_browser
from tests.helpers.guarded_server import NAMES, TOKEN, row
from tests.helpers.server import Server


@pytest.fixture(scope="module")
def browser(guarded: Server) -> Iterator[webdriver.Chrome]:
    """With the token in its tab."""
    driver = start_browser()
    try:
        driver.get(guarded.address)
        Page(driver, guarded).until(lambda: driver.find_element(By.ID, "token").is_displayed())
        driver.find_element(By.ID, "token").send_keys(TOKEN, Keys.ENTER)
        Page(driver, guarded).until(lambda: Page(driver, guarded).text("version") != "…")
        yield driver
    finally:
        driver.quit()


@dataclass
class Page:
    """The page as a person meets it."""

    browser: webdriver.Chrome
    server: Server

    def open(self) -> None:
        self.browser.get(self.server.address)
        self.until(lambda: self.text("version") != "…" and self.tags("found"))

    def at(self, identity: str) -> WebElement:
        return self.browser.find_element(By.ID, identity)

    def text(self, identity: str) -> str:
        return self.at(identity).text

    def until(self, holds: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.browser.find_element(By.TAG_NAME, "body").text
            time.sleep(0.05)

    def tags(self, identity: str) -> list[str]:
        """Names in a list; read in one step, since the list may be replaced meanwhile."""
        return self.texts(f"#{identity} .name")

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def widths(self, identity: str) -> list[float]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.offsetWidth)"
        found: list[float] = self.browser.execute_script(script, f"#{identity} .fill")
        return found

    def press(self, label: str) -> WebElement:
        """Click the button of this accessible name."""
        buttons = self.browser.find_elements(By.TAG_NAME, "button")
        found = next(button for button in buttons if button.accessible_name == label)
        found.click()
        return found

    def paste(self, content: Any) -> None:
        """Features into their field, then Enter."""
        text = content if isinstance(content, str) else json.dumps(content)
        field = self.at("features")
        field.clear()
        field.click()
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})
        field.send_keys(Keys.ENTER)

    def kept(self) -> dict[str, Any]:
        """The only feedback there is; it is taken away."""
        (file,) = (self.server.versions / "feedback").glob("*.parquet")
        (word,) = pq.read_table(file).to_pylist()
        file.unlink()
        found: dict[str, Any] = word
        return found

    def best(self, count: int) -> None:
        self.at("k").send_keys(
            Keys.CONTROL, "a"
        )  # cleared, it would be a change: the page fills in 5
        self.at("k").send_keys(str(count), Keys.ENTER)

    def choose(self, decide: str) -> None:
        Select(self.at("decide")).select_by_value(decide)


@pytest.fixture
def page(guarded: Server, browser: webdriver.Chrome) -> Iterator[Page]:
    for file in (guarded.versions / "feedback").glob("*.parquet"):  # of other tests
        file.unlink()
    opened = Page(browser, guarded)
    opened.open()
    browser.get_log("browser")
    yield opened
    # A refused request is logged as well; anything else is a fault of the page.
    faults = [e for e in browser.get_log("browser") if e["source"] != "network"]
    assert not faults


def expected(server: Server, content: dict[str, Any]) -> list[dict[str, Any]]:
    status, answer, _ = server.ask("/v1/annotate", content)
    assert status == 200
    tags: list[dict[str, Any]] = answer["results"][0]["tags"]
    return tags


def test_header_names_the_model(page: Page) -> None:
    version = load_bundle(page.server.versions / "v1").info.version
    assert [page.text(name) for name in ("version", "method", "tags", "dim")] == [
        version,
        "drel",
        "12",
        "1280",
    ]
    loaded = page.browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert loaded and all(name.startswith(page.server.address) for name in loaded)


def test_pasted_features_get_the_tags_of_the_scorer(page: Page) -> None:
    page.paste(row())
    page.until(lambda: page.tags("result"))
    page.best(12)
    page.until(lambda: len(page.tags("result")) == 12)
    tags = expected(page.server, {"features": [row()], "k": 12})
    assert page.tags("result") == [tag["tag"] for tag in tags]
    assert page.texts("#result .number") == [f"{tag['score']:.2f}" for tag in tags]
    # Bars are as long as probabilities are high, whatever else is shown.
    widths = page.widths("result")
    shares = [width / widths[0] for width in widths]
    assert shares == pytest.approx([tag["score"] / tags[0]["score"] for tag in tags], abs=0.01)
    # The names of tags are text: nothing of them becomes an element.
    assert set(NAMES) == set(page.tags("result"))
    assert not page.browser.find_elements(By.CSS_SELECTOR, "main b, main i")
    middle = (tags[3]["score"] + tags[4]["score"]) / 2
    page.at("threshold").send_keys(repr(middle), Keys.ENTER)
    page.until(lambda: len(page.tags("result")) == 4)
    page.at("threshold").clear()
    page.best(4)
    for decide in ("macro", "threshold"):
        page.choose(decide)
        k = {"k": 4} if decide == "macro" else {}
        wanted = expected(page.server, {"features": [row()], "decide": decide, **k})
        page.until(lambda wanted=wanted: page.tags("result") == [tag["tag"] for tag in wanted])
        assert page.at("k").is_enabled() == (decide == "macro")
    assert wanted != expected(page.server, {"features": [row()], "k": len(wanted)})
    page.choose("top")
    page.until(lambda: page.tags("result") == [tag["tag"] for tag in tags[:4]])
    assert page.at("k").is_enabled()


def test_features_may_be_pasted_by_the_names_of_their_columns(page: Page) -> None:
    page.paste({"cnn": row(2)})
    page.until(lambda: "features.cnn: no column of this model" in page.text("error"))
    page.paste({"features": row(2)})
    page.until(lambda: page.tags("result"))
    page.best(4)
    tags = [tag["tag"] for tag in expected(page.server, {"features": [row(2)], "k": 4})]
    page.until(lambda: page.tags("result") == tags)


def test_neighbours_lead_on(page: Page) -> None:
    page.press("<b>x</b>")
    answer = page.server.ask("/v1/neighbours?tag=%3Cb%3Ex%3C%2Fb%3E&limit=10")[1]["neighbours"]
    names = [one["tag"] for one in answer]
    page.until(lambda: page.tags("neighbours") == names)
    assert page.text("near-title") == "Neighbours of <b>x</b>"
    widths = page.widths("neighbours")
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1] > 0
    page.browser.find_elements(By.CSS_SELECTOR, "#neighbours .name")[1].click()
    page.until(lambda: page.text("near-title") == f"Neighbours of {names[1]}")
    assert page.browser.switch_to.active_element == page.at("near-title")


def test_feedback_is_kept_as_chosen(page: Page) -> None:
    page.paste(row(1))
    page.until(lambda: len(page.tags("result")) == 5)
    page.press("send feedback")
    page.until(lambda: "first" in page.text("error"))
    first, second, third = page.tags("result")[:3]
    accept = page.press(f"accept {first}")
    page.press(f"accept {second}")
    reject = page.press(f"reject {second}")  # the last word counts
    page.press(f"reject {third}")
    page.press(f"reject {third}")  # taken back
    pressed = [one.get_attribute("aria-pressed") for one in (accept, reject)]
    assert pressed == ["true", "true"]
    page.at("add").send_keys("<b>")
    page.until(
        lambda: (
            page.browser.execute_script(
                "return [...document.querySelectorAll('#completions option')].map(o => o.value)"
            )
            == ["<b>x</b>"]
        )
    )
    page.at("add").clear()
    page.at("add").send_keys(" brand <new> ", Keys.ENTER)
    assert page.texts("#verdicts button") == [f"+ {first}", f"− {second}", "+ brand <new>"]
    page.press("send feedback")
    page.until(lambda: page.text("kept").startswith("Kept: 2 to add, 1 to remove"))
    assert not page.at("error").is_displayed()
    kept = page.kept()
    assert (kept["add"], kept["remove"]) == ([first, "brand <new>"], [second])
    assert kept["features"] == row(1) and kept["image_id"].startswith("pasted-")


def test_what_is_wrong_is_said_in_words(page: Page) -> None:
    page.paste([1, 2, 3])
    page.until(lambda: "has 3 numbers; this model takes D = 1280" in page.text("error"))
    page.paste("hello")
    page.until(lambda: "must be a JSON array" in page.text("error"))
    assert page.tags("result") == []
    page.paste(row())
    page.until(lambda: page.tags("result"))
    assert not page.at("error").is_displayed()
    page.browser.execute_script("""window.real = fetch; window.fetch = async () => new Response(
        '{"error": {"code": "overloaded", "message": "9 rows wait already"}}', {status: 503})""")
    page.best(3)
    page.until(lambda: "try again in a moment: 9 rows wait already" in page.text("error"))
    page.browser.execute_script("window.fetch = real")
    page.browser.set_network_conditions(offline=True, latency=0, throughput=-1)
    try:
        page.best(4)
        page.until(lambda: "does not answer" in page.text("error"))
    finally:
        page.browser.delete_network_conditions()
    page.best(5)
    page.until(lambda: len(page.tags("result")) == 5 and not page.at("error").is_displayed())


def test_keyboard_alone_is_enough(page: Page) -> None:
    def tab_to(label: str) -> None:
        for _ in range(60):
            ActionChains(page.browser).send_keys(Keys.TAB).perform()
            focused = page.browser.switch_to.active_element
            if focused.accessible_name == label:
                break
        else:
            raise AssertionError(f"Tab does not come to {label!r}")
        shown = page.browser.execute_script(
            "const at = document.activeElement.closest('.drop') ?? document.activeElement;"
            "return getComputedStyle(at).outlineStyle"
        )
        assert shown == "solid", f"focus on {label!r} cannot be seen"

    def enter() -> None:
        ActionChains(page.browser).send_keys(Keys.ENTER).perform()

    tab_to("choose a picture to annotate")
    tab_to("Features: 1280 numbers in JSON")
    page.browser.execute_cdp_cmd("Input.insertText", {"text": json.dumps(row(2))})
    tab_to("annotate")
    enter()
    page.until(lambda: len(page.tags("result")) == 5)
    assert page.text("said").startswith("5 best of pasted features")
    last = page.tags("result")[4]
    tab_to(last)
    enter()
    page.until(lambda: page.text("near-title") == f"Neighbours of {last}")
    tab_to(f"reject {last}")
    enter()
    tab_to("send feedback")
    enter()
    page.until(lambda: page.text("kept").startswith("Kept: 0 to add, 1 to remove"))
    assert page.kept()["remove"] == [last]


def test_a_picture_is_shown_beside_its_tags(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "<i>noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    page.at("file").send_keys(str(picture))
    page.until(lambda: len(page.tags("result")) == 5)
    assert page.text("said").startswith("5 best of <i>noise.png, by version")
    assert page.at("picture").is_displayed()
    assert page.at("picture").get_property("naturalWidth") == 50
    first = page.tags("result")[0]
    page.press(f"accept {first}")
    page.press("send feedback")
    page.until(lambda: page.text("kept").startswith("Kept"))
    kept = page.kept()
    digest = page.browser.execute_async_script(
        "const [hex, done] = arguments; crypto.subtle.digest('SHA-256', Uint8Array.from("
        "hex.match(/../g), (two) => parseInt(two, 16))).then((d) => done([...new Uint8Array(d)]));",
        picture.read_bytes().hex(),
    )
    assert kept["image_id"] == "upload-" + bytes(digest).hex()[:16]
    tags = expected(page.server, {"features": [kept["features"]], "k": 5})
    assert page.tags("result") == [tag["tag"] for tag in tags]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.at("file").send_keys(str(broken))
    page.until(lambda: "The scorer cannot use that: images[0]" in page.text("error"))
    assert page.tags("result") == [] and not page.at("picture").is_displayed()


def test_an_example_shows_its_own_tags(page: Page) -> None:
    page.best(12)
    page.until(lambda: page.texts("#examples button") == ["row <i>0", "row <i>1"])
    chosen = page.press("row <i>1")
    tags = expected(page.server, {"features": [row(11)], "k": 12})
    page.until(lambda: page.tags("result") == [tag["tag"] for tag in tags])
    assert page.texts("#own span") == ["✓ <b>x</b>", "unseen"]
    assert chosen.get_attribute("aria-pressed") == "true"
    page.press("accept <b>x</b>")
    page.press("send feedback")
    page.until(lambda: page.text("kept") == "Kept: 1 to add, 0 to remove, for row <i>1")
    assert page.kept()["features"] == row(11)
    page.press("row <i>0")
    page.until(lambda: "row <i>0" in page.text("said"))
    assert page.texts("#own span") == ["✓ tag-00"] and page.texts("#verdicts li") == []


def test_tags_are_found_by_their_beginning(page: Page) -> None:
    assert page.tags("found")[0] == "tag-09"  # all tags, the most frequent first
    page.at("prefix").send_keys("TAG-0")
    page.until(lambda: len(page.tags("found")) == 10)
    page.at("prefix").send_keys("3")
    page.until(lambda: page.texts("#found li") == ["tag-036"])  # the tag and its count
    page.at("prefix").send_keys("?")
    page.until(lambda: page.text("search-said") == "No tag begins with that.")


def test_a_new_version_shows_without_a_reload(page: Page) -> None:
    versions = page.server.versions
    first, second = (load_bundle(versions / name).info.version for name in ("v1", "v2"))
    assert page.at("drop").is_displayed() and not page.at("features-only").is_displayed()
    page.choose("threshold")
    publish(versions, "v2")
    try:
        page.until(lambda: page.text("version") == second)
        assert "features only, not pictures" in page.text("features-only")
        assert not page.at("drop").is_displayed()
        page.until(lambda: not page.at("examples-part").is_displayed())
        assert first in page.text("state")
        # v2 knows no probabilities: the page asks for what it can give.
        options = page.browser.find_elements(By.CSS_SELECTOR, "#decide option")
        assert [option.is_enabled() for option in options] == [True, False, False]
        assert page.at("decide").get_attribute("value") == "top" and page.at("k").is_enabled()
        page.paste(row())
        page.until(lambda: f"by version {second}" in page.text("said"))
    finally:
        publish(versions, "v1")
        page.until(lambda: page.server.ask("/v1/model")[1]["version"] == first)


def test_it_fits_a_phone_in_either_scheme(page: Page) -> None:
    colours = []
    try:
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page.paste(row())
        page.until(lambda: page.tags("result"))
        page.press("<b>x</b>")
        page.until(lambda: page.tags("neighbours"))
        assert page.browser.execute_script("return document.documentElement.scrollWidth") == 360
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            body = page.browser.find_element(By.TAG_NAME, "body")
            colours.append(body.value_of_css_property("background-color"))
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(set(colours)) == 2

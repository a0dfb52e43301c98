"""The page at / of the scorer: a real browser, a real server."""

from __future__ import annotations

import csv
import json
import time
from base64 import b64encode
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
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.guarded_server import NAMES, TOKEN, D, row
from tests.helpers.server import Server

ANSWERED = "[data-state=done]"


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
        self.until(lambda: self.text("version") != "…" and self.tags("#found"))

    def at(self, identity: str) -> WebElement:
        return self.browser.find_element(By.ID, identity)

    def text(self, identity: str) -> str:
        return self.at(identity).text

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.browser.find_element(By.TAG_NAME, "body").text
            time.sleep(0.05)

    def texts(self, selector: str) -> list[str]:
        """Read in one step, since a list may be replaced meanwhile."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def tags(self, place: str = "#grid .bars") -> list[str]:
        """Names in a list; those of every card, where no list is named."""
        return self.texts(f"{place} .name")

    def cards(self, state: str = "") -> list[str]:
        """Titles."""
        return self.texts(f"#grid > li{state} .title h3")

    def bars(self, place: str = "#grid") -> list[tuple[float, str, float]]:
        """Score, figure, and length as a share of the track."""
        script = """return [...document.querySelectorAll(arguments[0] + " .bars li")].map(li => {
            const [figure, track] = [li.querySelector(".number"), li.querySelector(".bar")];
            return [Number(figure.title), figure.textContent,
                    track.firstChild.getBoundingClientRect().width / track.getBoundingClientRect().width]})"""
        found: list[list[Any]] = self.run(script, place)
        return [(score, figure, share) for score, figure, share in found]

    def press(self, label: str) -> WebElement:
        """Click the button of this accessible name."""
        buttons = self.browser.find_elements(By.TAG_NAME, "button")
        found = next(button for button in buttons if button.accessible_name == label)
        found.click()
        return found

    def keys(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> str:
        return self.browser.switch_to.active_element.accessible_name

    def paste(self, content: Any) -> None:
        """Features into their field, then Enter."""
        text = content if isinstance(content, str) else json.dumps(content)
        self.run("document.getElementById('numbers').open = true")
        field = self.at("features")
        field.clear()
        field.click()
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})
        field.send_keys(Keys.ENTER)

    def annotated(self, content: Any) -> list[str]:
        """Tags of pasted features, in an empty grid."""
        if self.cards():
            self.press("clear")
        self.paste(content)
        self.until(lambda: self.cards(ANSWERED))
        return self.tags()

    def give(self, *files: Path) -> None:
        self.at("file").send_keys("\n".join(map(str, files)))

    def kept(self) -> dict[str, Any]:
        """The only feedback there is; it is taken away."""
        (file,) = (self.server.versions / "feedback").glob("*.parquet")
        (word,) = pq.read_table(file).to_pylist()
        file.unlink()
        found: dict[str, Any] = word
        return found

    def fill(self, identity: str, value: object) -> None:
        """A number, as typed over what was there."""
        self.at(identity).send_keys(Keys.CONTROL, "a")
        self.at(identity).send_keys(str(value) or Keys.DELETE, Keys.ENTER)

    def choose(self, decide: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, f"[name=decide][value={decide}]").click()


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
    opened.run("localStorage.clear()")
    assert not faults


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures."""
    made = [tmp_path / name for name in ("<i>one.png", "two.png", "=three().png")]
    for seed, file in enumerate(made):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return made


def expected(server: Server, content: dict[str, Any]) -> list[dict[str, Any]]:
    status, answer, _ = server.ask("/v1/annotate", content)
    assert status == 200
    tags: list[dict[str, Any]] = answer["results"][0]["tags"]
    return tags


def names(tags: list[dict[str, Any]]) -> list[str]:
    return [tag["tag"] for tag in tags]


def test_header_names_the_model(page: Page) -> None:
    version = load_bundle(page.server.versions / "v1").info.version
    shown = [page.text(name) for name in ("version", "method", "tags", "dim")]
    assert shown == [version, "drel", "12", "1280"]
    loaded = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and all(name.startswith(page.server.address) for name in loaded)


def test_only_the_pages_own_files_may_run(page: Page) -> None:
    for path in ("/", "/page/main.js", "/page/style.css"):
        policy = page.server.ask(path)[2]["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.server.ask("/page/..%2frouts.py")[0] == 404
    page.run("""const s = document.createElement('script'); s.textContent = 'window.ran = true';
        document.body.append(s)""")
    assert page.run("return window.ran") is None
    assert "Content Security Policy" in page.browser.get_log("browser")[0]["message"]


def test_every_bar_is_on_the_scale_of_percent(page: Page) -> None:
    page.paste(row())
    page.fill("k", 12)
    page.paste(row(1))
    page.until(lambda: len(page.cards(ANSWERED)) == 2 and len(page.tags()) == 20)
    assert page.texts("#grid .more-tags:not([hidden])") == ["show all 12"] * 2
    page.press("show all 12")
    page.press("show all 12")
    tags = [expected(page.server, {"features": [row(seed)], "k": 12}) for seed in (1, 0)]
    assert page.tags() == names(tags[0]) + names(tags[1])
    scores = [tag["score"] for tag in tags[0] + tags[1]]
    bars = page.bars()
    assert [score for score, _, _ in bars] == scores
    assert [share for _, _, share in bars] == pytest.approx(scores, abs=0.01)
    for score, figure, _ in bars:
        assert figure.endswith("%")
        assert float(figure.strip("<>%")) == pytest.approx(100 * score, abs=0.51)
    # The names of tags are text: nothing of them becomes an element.
    assert set(NAMES) == set(page.tags())
    assert not page.browser.find_elements(By.CSS_SELECTOR, "main b, main i")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0, "0%"), (0.0004, "<0.1%"), (0.0432, "4.3%"), (0.0996, "10%"), (0.507, "51%")),
        *((0.9961, "99.6%"), (0.99996, ">99.9%"), (1, "100%")),
    ],
)
def test_percent_rounds_nothing_to_certain(page: Page, share: float, text: str) -> None:
    found = page.browser.execute_async_script(
        "const [share, done] = arguments; import('./page/dom.js').then((m) => done(m.percent(share)))",
        share,
    )
    assert found == text


def test_the_switch_decides(page: Page) -> None:
    def asked(**options: Any) -> list[str]:
        return names(expected(page.server, {"features": [row()], **options}))

    page.annotated(row())
    page.fill("k", 4)
    page.until(lambda: page.tags() == asked(k=4))
    page.choose("macro")
    page.until(lambda: page.tags() == asked(k=4, decide="macro"))
    page.choose("threshold")
    page.until(lambda: page.tags() == asked(decide="threshold"))
    assert not page.at("k").is_displayed()
    assert asked(decide="threshold") != asked(decide="threshold", precision=0.6)
    page.fill("precision", 60)
    page.until(lambda: page.tags() == asked(decide="threshold", precision=0.6))
    page.fill("precision", 100)
    page.until(lambda: "precision 1.0: no probability" in page.text("error"))
    assert page.tags() == asked(decide="threshold", precision=0.6)  # from before
    page.choose("top")
    page.until(lambda: page.tags() == asked(k=4) and not page.at("error").is_displayed())
    assert page.at("k").is_displayed() and not page.at("precision").is_displayed()
    scores = [tag["score"] for tag in expected(page.server, {"features": [row()]})]
    page.fill("threshold", 50 * (scores[1] + scores[2]))
    page.until(lambda: page.tags() == asked(k=2))


def test_features_may_be_pasted_by_the_names_of_their_columns(page: Page) -> None:
    page.paste({"cnn": row(2)})
    page.until(lambda: page.cards("[data-state=failed]"))
    assert "features.cnn: no column of this model" in page.texts("#grid .note")[0]
    tags = names(expected(page.server, {"features": [row(2)], "k": 5}))
    assert page.annotated({"features": row(2)}) == tags


def test_neighbours_lead_on(page: Page) -> None:
    page.press("<b>x</b>")
    answer = page.server.ask("/v1/neighbours?tag=%3Cb%3Ex%3C%2Fb%3E&limit=10")[1]["neighbours"]
    page.until(lambda: page.tags("#neighbours") == names(answer))
    assert page.text("near-title") == "Neighbours of <b>x</b>"
    cosines = [max(one["score"], 0) for one in answer]
    assert [share for _, _, share in page.bars("#near")] == pytest.approx(cosines, abs=0.01)
    page.browser.find_elements(By.CSS_SELECTOR, "#neighbours .name")[1].click()
    page.until(lambda: page.text("near-title") == f"Neighbours of {answer[1]['tag']}")
    assert page.browser.switch_to.active_element == page.at("near-title")


def test_feedback_is_kept_as_chosen(page: Page) -> None:
    first, second, third = page.annotated(row(1))[:3]
    accept = page.press(f"accept {first}")
    page.press(f"accept {second}")
    reject = page.press(f"reject {second}")  # the last word counts
    page.press(f"reject {third}")
    page.press(f"reject {third}")  # taken back
    pressed = [one.get_attribute("aria-pressed") for one in (accept, reject)]
    assert pressed == ["true", "true"]
    further = page.browser.find_element(By.CSS_SELECTOR, "#grid input")
    further.send_keys("<b>")
    completions = "return [...document.querySelectorAll('#completions option')].map(o => o.value)"
    page.until(lambda: page.run(completions) == ["<b>x</b>"])
    further.clear()
    further.send_keys(" brand <new> ", Keys.ENTER)
    assert page.texts("#grid .chips button") == ["+ brand <new>"]
    page.press("send feedback")
    page.until(lambda: page.texts("#grid .note") == ["Kept: 2 tags to add, 1 to remove."])
    assert not page.at("error").is_displayed() and not page.at("send-all").is_displayed()
    kept = page.kept()
    assert (kept["add"], kept["remove"]) == ([first, "brand <new>"], [second])
    assert kept["features"] == row(1) and kept["image_id"].startswith("pasted-")


def test_feedback_of_all_cards_is_sent_together(page: Page, pictures: list[Path]) -> None:
    page.give(*pictures)
    page.until(lambda: len(page.cards(ANSWERED)) == 3)
    first, second = (
        page.run("""return [...document.querySelectorAll("#grid > li")].slice(0, 2).map(li => {
        li.querySelector(".square.yes").click(); return li.querySelector(".bars .name").textContent})""")
    )
    page.press("clear")
    page.browser.switch_to.alert.dismiss()  # it was not sent yet
    page.press("send feedback of 2 pictures")
    page.until(lambda: page.texts("#grid .note").count("Kept: 1 tag to add, 0 to remove.") == 2)
    files = (page.server.versions / "feedback").glob("*.parquet")
    kept = [word for file in files for word in pq.read_table(file).to_pylist()]
    assert sorted(word["add"] for word in kept) == sorted([[first], [second]])
    assert all(word["image_id"].startswith("upload-") for word in kept)


def test_what_is_wrong_is_said_in_words(page: Page) -> None:
    page.paste([1, 2, 3])
    page.until(lambda: page.cards("[data-state=failed]"))
    assert "has 3 numbers; this model takes D = 1280" in page.texts("#grid .note")[0]
    page.paste("hello")
    page.until(lambda: "must be a JSON array" in page.text("error"))
    assert page.tags() == [] and page.text("said") == "0 annotated, 1 failed"
    page.annotated(row())
    assert not page.at("error").is_displayed()
    page.browser.set_network_conditions(offline=True, latency=0, throughput=-1)
    try:
        page.fill("k", 4)
        page.until(lambda: "does not answer" in page.text("error"))
    finally:
        page.browser.delete_network_conditions()
    assert len(page.tags()) == 5  # from before
    page.press("go on")
    page.until(lambda: len(page.tags()) == 4 and not page.at("error").is_displayed())


def test_several_pictures_and_one_that_is_broken(page: Page, pictures: list[Path]) -> None:
    broken = pictures[0].with_name("broken.png")
    broken.write_bytes(b"no picture")
    large = pictures[0].with_name("large.png")
    large.write_bytes(bytes(3 << 20))  # the scorer takes bodies of 3 MiB
    page.run("""window.asked = []; const real = fetch; window.fetch = (path, told) => {
        if (path === "v1/annotate") asked.push(JSON.parse(told.body).images?.length);
        return real(path, told)}""")
    given = [pictures[0], broken, large, *pictures[1:]]
    page.give(*given)
    page.until(lambda: page.cards(ANSWERED) == [file.name for file in pictures])
    assert page.cards() == [file.name for file in given]
    version = page.text("version")
    page.until(lambda: page.text("said") == f"3 annotated by version {version}, 2 failed")
    notes = page.texts("#grid .note")
    assert notes[1].startswith("The scorer cannot use that: not a picture") and "2 MiB" in notes[2]
    # The large one was never sent; the broken one cost its batch a second request.
    assert page.run("return asked") == [2, 1, 2]
    widths = "return [...document.querySelectorAll('#grid img')].map(i => i.naturalWidth)"
    page.until(lambda: page.run(widths) == [50, 50, 50])
    alone = [
        names(expected(page.server, {"images": [b64encode(file.read_bytes()).decode()]}))
        for file in pictures
    ]
    assert page.tags() == [tag for tags in alone for tag in tags]
    assert not page.browser.find_elements(By.CSS_SELECTOR, "main i")
    page.press("take two.png out")
    assert "two.png" not in page.cards()
    page.press("clear")
    assert page.cards() == [] and page.at("empty").is_displayed()


def test_a_busy_scorer_is_asked_again_and_a_run_can_be_stopped(
    page: Page, pictures: list[Path]
) -> None:
    page.run("""let refusals = 1; window.real = fetch; window.fetch = (path, told) => {
        if (path !== "v1/annotate") return real(path, told);
        if (refusals-- > 0) return Promise.resolve(new Response(
            '{"error": {"code": "overloaded", "message": "9 rows wait already"}}',
            {status: 503, headers: {"retry-after": "1"}}));
        return new Promise((_, fail) =>
            told.signal.addEventListener("abort", () => fail(told.signal.reason)))}""")
    page.give(*pictures)
    page.until(lambda: "busy or not ready. Asking again in 1 s." in page.text("said"))
    page.until(lambda: page.text("said") == "0 of 3")  # asked again; that never ends
    page.keys("x")
    page.until(lambda: page.text("said") == "0 annotated, 3 not yet")
    assert page.texts("#grid .note") == ["Waiting."] * 3
    page.run("window.fetch = real")
    page.press("go on")
    page.until(lambda: len(page.cards(ANSWERED)) == 3)
    assert not page.at("stop").is_displayed() and not page.at("go-on").is_displayed()


def test_pictures_may_be_dropped_and_pasted(page: Page) -> None:
    page.run("""const given = new DataTransfer();
        for (const name of ["dropped-1.png", "dropped-2.png"]) given.items.add(new File(["no"], name));
        document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: given}));
        const pasted = new DataTransfer(); pasted.items.add(new File(["no"], "pasted.png"));
        document.body.dispatchEvent(new ClipboardEvent("paste", {bubbles: true, clipboardData: pasted}))""")
    page.until(lambda: page.text("said") == "0 annotated, 3 failed")
    assert page.cards() == ["pasted.png", "dropped-1.png", "dropped-2.png"]


def test_results_are_downloaded(page: Page, pictures: list[Path], tmp_path: Path) -> None:
    to = tmp_path / "downloads"
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(to)}
    )
    broken = tmp_path / "broken;=2+3.png"
    broken.touch()
    page.fill("k", 12)
    page.give(*pictures, broken)
    page.until(lambda: len(page.cards(ANSWERED)) == 3 and page.cards("[data-state=failed]"))
    first, second = page.tags()[:2]
    page.press(f"accept {first}")
    page.press(f"reject {second}")
    page.press("JSON")
    page.press("CSV")
    page.until(lambda: {file.suffix for file in to.glob("*")} == {".json", ".csv"})
    told = json.loads(next(to.glob("*.json")).read_text())
    assert (told["decide"], told["k"]) == ("top", 12)
    results = told["results"]
    assert [one["picture"] for one in results] == [file.name for file in (*pictures, broken)]
    assert (results[0]["accepted"], results[0]["rejected"]) == ([first], [second])
    assert set(names(results[0]["tags"])) == set(NAMES)
    assert results[3]["tags"] == [] and "empty (0 bytes)" in results[3]["error"]
    with next(to.glob("*.csv")).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 12 + 1 and set(NAMES) <= {line["tag"] for line in lines}
    assert [line["verdict"] for line in lines[:3]] == ["accepted", "rejected", ""]
    assert [float(line["score"]) for line in lines[:12]] == [
        tag["score"] for tag in results[0]["tags"]
    ]
    # A spreadsheet must not take a name for a formula.
    assert {line["picture"] for line in lines} == {
        "<i>one.png",
        "two.png",
        "'=three().png",
        "broken;=2+3.png",
    }
    # Nor a part of one, where it splits lines at ";".
    assert '"broken;=2+3.png",' in next(to.glob("*.csv")).read_text()


def test_tab_alone_is_enough(page: Page) -> None:
    def tab_to(label: str) -> None:
        for _ in range(90):
            page.keys(Keys.TAB)
            if page.focused() == label:
                break
        else:
            raise AssertionError(f"Tab does not come to {label!r}")
        shown = page.run(
            "const at = document.activeElement;"
            "return getComputedStyle(at.closest('.drop, .segments label') ?? at).outlineStyle"
        )
        assert shown == "solid", f"focus on {label!r} cannot be seen"

    tab_to("choose pictures to annotate")
    tab_to("Without a picture: example rows of training, or features")
    page.keys(Keys.ENTER)
    tab_to("Features: 1280 numbers in JSON")
    page.browser.execute_cdp_cmd("Input.insertText", {"text": json.dumps(row(2))})
    tab_to("annotate")
    page.keys(Keys.ENTER)
    page.until(lambda: len(page.tags()) == 5)
    tab_to("Most probable")
    last = page.tags()[4]
    tab_to(last)
    page.keys(Keys.ENTER)
    page.until(lambda: page.text("near-title") == f"Neighbours of {last}")
    page.keys(Keys.ESCAPE)
    assert page.focused() == last
    tab_to(f"reject {last}")
    page.keys(Keys.ENTER)
    tab_to("send feedback")
    page.keys(Keys.ENTER)
    page.until(lambda: page.texts("#grid .note") == ["Kept: 0 tags to add, 1 to remove."])
    assert page.kept()["remove"] == [last]


def test_keys_do_what_the_help_says(page: Page, pictures: list[Path]) -> None:
    page.keys("?")
    assert page.at("help").is_displayed() and "next picture" in page.text("keys")
    page.keys("j", Keys.ESCAPE)
    assert not page.at("help").is_displayed()
    page.give(*pictures)
    page.until(lambda: len(page.cards(ANSWERED)) == 3)
    tags = page.tags()
    page.keys("j")
    assert page.focused() == tags[0]
    page.keys(
        "a", "r", "a", Keys.ARROW_UP, "a"
    )  # each goes on to the next tag; the last takes back
    pressed = [
        one.accessible_name
        for one in page.browser.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")
    ]
    assert pressed == [f"accept {tags[0]}", f"reject {tags[1]}"]
    page.keys("t", "j")
    assert page.browser.switch_to.active_element.get_attribute("value") == "j"
    page.keys(Keys.ESCAPE, "j", Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert page.focused() == tags[6]  # the second tag of the second picture
    page.keys("k", Keys.DELETE)
    assert page.cards() == ["two.png", "=three().png"] and page.focused() == "two.png"
    page.keys("j", "n")
    page.until(lambda: page.text("near-title") == f"Neighbours of {tags[10]}")
    page.keys("2")
    assert page.at("decide-said").text.startswith("The tags that together find rare ones")
    page.keys("?")
    page.at("keys-on").click()
    page.keys(Keys.ESCAPE, "?", "1")
    assert not page.at("help").is_displayed() and "rare ones" in page.text("decide-said")
    page.open()
    assert not page.at("keys-on").is_selected()  # remembered


def test_an_example_shows_its_own_tags(page: Page) -> None:
    page.fill("k", 12)
    page.run("document.getElementById('numbers').open = true")
    page.until(lambda: page.texts("#examples button") == ["row <i>0", "row <i>1"])
    page.press("row <i>1")
    tags = names(expected(page.server, {"features": [row(11)], "k": 12}))
    page.until(lambda: page.tags() == tags[:10])
    assert page.texts("#grid .chips span") == ["✓ <b>x</b>", "unseen"]
    page.run("document.querySelector('#grid .more-tags').click()")
    page.press("accept <b>x</b>")
    page.press("send feedback")
    page.until(lambda: page.texts("#grid .note") == ["Kept: 1 tag to add, 0 to remove."])
    kept = page.kept()
    assert (kept["features"], kept["image_id"]) == (row(11), "row <i>1")
    page.press("row <i>1")  # it is there already
    page.press("row <i>0")
    assert page.cards() == ["row <i>0", "row <i>1"]


def test_pictures_of_training_are_shown_of_kept_rows_alone(
    page: Page, pictures: list[Path]
) -> None:
    def shown(place: str) -> list[list[Any]]:
        """Name and width of each picture that has come."""
        script = """return [...document.querySelectorAll(arguments[0] + " img[src]")]
            .filter((image) => image.complete)
            .map((image) => [image.alt || image.parentElement.textContent, image.naturalWidth])"""
        found: list[list[Any]] = page.run(script, place)
        return sorted(found)

    both = [["row <i>0", 240], ["row <i>1", 240]]
    page.run("document.getElementById('numbers').open = true")
    page.until(lambda: shown("#examples") == both)
    page.give(pictures[1])
    page.until(lambda: page.cards(ANSWERED))
    page.keys("j", "m")
    page.until(lambda: shown("#grid .strip") == both)
    page.press("tag-01")
    page.until(lambda: shown("#neighbours") == both)  # each has one of the other tags
    titles = "return [...document.querySelectorAll('#grid .strip img')].map((image) => image.title)"
    asked = {"image": b64encode(pictures[1].read_bytes()).decode()}
    rows = page.server.ask("/v1/similar", asked)[1]["rows"]
    assert page.run(titles) == [
        f"{one['image_id']}: {', '.join(one['tags'])} ({one['score']:.2f})" for one in rows
    ]
    for image_id in ("of%20nobody", "of%20nobody.png", "..%2Flatest", "row%20%3Ci%3E0.png"):
        status, answer, _ = page.server.ask(f"/v1/pictures?image_id={image_id}")
        assert (status, answer["error"]["code"]) == (404, "no_picture")


def test_tags_are_found_by_their_beginning(page: Page) -> None:
    assert page.tags("#found")[0] == "tag-09"  # all tags, the most frequent first
    page.keys("/", *"TAG-0")
    page.until(lambda: len(page.tags("#found")) == 10)
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
        switch = page.browser.find_elements(By.NAME, "decide")
        assert [one.is_enabled() for one in switch] == [True, False, False]
        assert switch[0].is_selected() and page.at("k").is_displayed()
        page.annotated(row())
        page.paste(row(1))
        page.until(lambda: len(page.cards(ANSWERED)) == 2)
        page.until(lambda: f"by version {second}" in page.text("said"))
        # Scores have no ends of their own: the lowest and the highest that are shown.
        scores = [score for score, _, _ in page.bars()]
        low, high = min(scores), max(scores)
        wanted = [(score - low) / (high - low) for score in scores]
        assert [share for _, _, share in page.bars()] == pytest.approx(wanted, abs=0.01)
        assert [figure for _, figure, _ in page.bars()] == [f"{score:.2f}" for score in scores]
    finally:
        publish(versions, "v1")
        page.until(lambda: page.server.ask("/v1/model")[1]["version"] == first)


WIDE = "W" * 200
RULES = f"""
aliases: {{Hunde: tag-03}}
implies: {{tag-03: tag-04, tag-05: tag-04, tag-06: tag-04}}
groups: {{"<b>pets</b>": [tag-03, tag-04], {WIDE}: [tag-00]}}
names: {{tag-03: {{en: "<i>dog"}}, tag-04: {{en: {WIDE}}}}}
"""


def test_rules_of_the_vocabulary_are_seen(page: Page) -> None:
    versions = page.server.versions
    assert not page.at("group-part").is_displayed()
    if not (versions / "v3").exists():
        write_drel(versions / "v3", dim=D, names=NAMES, decider=random_decider(len(NAMES)), seed=3)
        (versions / "v3" / "vocabulary.yaml").write_text(RULES, encoding="utf-8")
    publish(versions, "v3")
    try:
        page.until(lambda: page.at("group-part").is_displayed())
        page.at("prefix").send_keys("hund")
        page.until(lambda: page.texts("#found li")[:1] == ["<i>dog also Hunde6"])
        page.at("prefix").clear()
        page.fill("k", 12)
        page.annotated(row())
        page.until(lambda: len(page.tags()) == 10)  # of twelve, before "show all"
        page.press("show all 12")
        (why,) = page.texts("#grid .why")
        scores = {tag: score for tag, (score, _, _) in zip(page.tags(), page.bars(), strict=True)}
        said = why.removeprefix("because of ")
        assert scores[WIDE] == scores[said]
        group = Select(page.at("group"))
        assert [one.text for one in group.options] == ["all tags", "<b>pets</b>", WIDE]
        # However long names are, the page is no wider than the window, and a tag takes some lines.
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        tall = "return Math.max(...[...document.querySelectorAll('#grid .name')].map(e => e.offsetHeight))"
        assert page.run(tall) < 100
        (button,) = page.browser.find_elements(By.CSS_SELECTOR, f"#grid .name[title^={WIDE}]")
        assert button.get_attribute("title") == f"{WIDE}: tag-04: show its neighbours"
        group.select_by_visible_text("<b>pets</b>")
        page.until(lambda: sorted(page.tags()) == ["<i>dog", WIDE])
        page.until(lambda: sorted(page.tags("#found")) == ["<i>dog", WIDE])
    finally:
        publish(versions, "v1")
        first = load_bundle(versions / "v1").info.version
        page.until(lambda: page.server.ask("/v1/model")[1]["version"] == first)


def test_tags_by_name_alone_are_marked(page: Page) -> None:
    versions = page.server.versions
    if not (versions / "v4").exists():
        write_drel(versions / "v4", dim=D, names=NAMES, decider=random_decider(len(NAMES)), seed=4)
        path = versions / "v4" / "vocabulary.json"
        vocabulary = json.loads(path.read_text())
        vocabulary["counts"][0] = 0
        path.write_text(json.dumps(vocabulary))
    publish(versions, "v4")
    try:
        version = load_bundle(versions / "v4").info.version
        page.until(lambda: page.text("version") == version)
        page.fill("k", 12)
        page.annotated(row())
        page.press("show all 12")
        marked = page.browser.find_elements(By.CSS_SELECTOR, "#grid li:has(> .why)")
        assert [one.text.split("\n")[0] for one in marked] == [NAMES[0]]
        assert page.texts("#grid .why") == ["by its name alone"]
    finally:
        publish(versions, "v1")
        first = load_bundle(versions / "v1").info.version
        page.until(lambda: page.server.ask("/v1/model")[1]["version"] == first)


CONTRAST = """
const light = (text) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = text;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const probe = document.body.appendChild(document.createElement("p"));
const colour = (name) => {
  probe.style.color = `var(--${name})`;
  return light(getComputedStyle(probe).color);
};
const found = arguments[0].map(([one, two]) => {
  const [low, high] = [colour(one), colour(two)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
});
probe.remove();
return found;
"""


def test_dark_follows_the_system_and_the_switch_is_remembered(page: Page) -> None:
    def ground() -> str:
        body = page.browser.find_element(By.TAG_NAME, "body")
        return body.value_of_css_property("background-color")

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    pairs = [(text, on) for text in ("text", "quiet", "accent", "no") for on in ("page", "panel")]
    pairs += [("on", "accent"), ("on", "yes"), ("on", "no"), ("yes", "panel"), ("text", "wrong")]
    try:
        system("light")
        light = ground()
        system("dark")
        dark = ground()
        assert light != dark
        for chosen in ("light", "dark"):
            page.browser.find_element(By.CSS_SELECTOR, f"[name=theme][value={chosen}]").click()
            assert ground() == (light if chosen == "light" else dark)
            # WCAG 2 AA: 4.5 for text, 3 for the edges of fields.
            assert min(page.run(CONTRAST, pairs)) >= 4.5, (chosen, page.run(CONTRAST, pairs))
            assert min(page.run(CONTRAST, [("edge", "panel"), ("accent", "track")])) >= 3
        system("light")
        page.open()
        assert ground() == dark
        page.browser.find_element(By.CSS_SELECTOR, "[name=theme][value=auto]").click()
        assert ground() == light
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_fits_a_phone(page: Page, pictures: list[Path]) -> None:
    def width() -> int:
        found: int = page.run("return document.documentElement.scrollWidth")
        return found

    long = pictures[0].with_name("x" * 200 + ".png")
    pictures[0].rename(long)
    try:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        page.give(long, *pictures[1:])
        page.until(lambda: len(page.cards(ANSWERED)) == 3)
        page.run("""document.querySelector("#grid li").card.judge("y".repeat(300), "add");
            document.getElementById("numbers").open = true""")
        assert width() == 390
        small = page.run("""return [...document.querySelectorAll("button, input, textarea, summary")]
            .filter((e) => e.checkVisibility() && e.getClientRects().length)
            .map((e) => e.closest("label:has([type=checkbox])") ?? e)
            .map((e) => [e.textContent || e.id, e.getBoundingClientRect()])
            .filter(([, r]) => r.height < 40).map(([name, r]) => `${name}: ${r.width} x ${r.height}`)""")
        assert small == []
        page.run("document.querySelector('#grid .bars .name').click()")
        page.until(lambda: page.at("near-close").is_displayed())  # a sheet over the page
        assert width() == 390
        page.at("near-close").click()
        assert not page.at("near").is_displayed()
        page.at("open-help").click()
        assert width() == 390
        page.keys(Keys.ESCAPE)
    finally:
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

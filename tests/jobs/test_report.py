"""The report: its figures are those of jobs.evaluate, and a browser shows the page as it is meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from torch.utils.tensorboard import SummaryWriter

from drel_core.images.backbone import TRUSTED
from tests.conftest import Job
from tests.helpers.browser import start_browser
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import ROOT
from tests.helpers.pictures import encoded, write_pictures
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import planted_table

BUNDLES = sorted(place.name for place in (ROOT / "tests" / "data").glob("bundle-*"))
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "</title></style><h1>",
    "'); alert(1)//",
    "&lt;b&gt; &amp; 100%",
    "猫 and a very long name that goes on and on and on and on and on and on",
    "‮reversed",
    "{{7*7}} ${7*7}",
    "line\nbreak",
    "a|b",
    "javascript:alert(1)",
    "]]>",
)


def report(job: Job, model: Path, data: Path, *arguments: object) -> str:
    """The page."""
    out = model.parent / "page.html"
    done = job("report", "--model", model, "--data", data, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"report  {out}" in done.stdout
    return out.read_text("utf-8")


def store_at(path: Path, rows: int = 40, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(planted_table(rows, **options), path, row_group_size=16)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_drel(tmp_path / "v1", dim=16, decider=random_decider(12), images=60)


def rows_of(page: str) -> dict[str, list[list[str]]]:
    """Of the table of figures the cells of each row, by the decision."""
    table = page.partition('id="figures"')[2].partition("</table>")[0]
    found = {}
    for body in table.split("<tbody>")[1:]:
        title, *rows = body.split("<tr")[1:]
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
        how = re.search(r"<span>(\w+):", title)
        assert how is not None
        found[how[1]] = [[re.sub("<.*?>", "", cell) for cell in row] for row in cells]
    return found


def test_figures_are_those_of_evaluate(job: Job, model: Path, tmp_path: Path) -> None:
    data = store_at(tmp_path / "test.parquet")
    for decide in ("top", "macro", "threshold"):
        file = tmp_path / f"{decide}.json"
        asked = ("--decide", decide, "--k", 3)
        done = job("evaluate", "--model", model, "--data", data, "--json", file, *asked)
        assert done.returncode == 0, done.stderr
        metrics = json.loads(file.read_text())
        page = report(job, model, data, *asked, "--beside", file)
        rows = rows_of(page)
        assert set(rows) == set(metrics["decisions"]) == {"top", "macro", "threshold"}
        for how, (floor, other, own) in rows.items():
            expected = metrics["decisions"][how]
            values = [metrics["mAP"] if key == "mAP" else expected[key] for key in KEYS]
            texts = [f"{v:,}" if isinstance(v, int) else f"{v:.3f}" for v in values]
            assert own == ["DREL", *texts, f"{expected['tags_per_image']:g}"]
            assert other[1:] == own[1:]
            assert floor[0] == "popularity floor"
            assert float(floor[6]) == pytest.approx(metrics["floor"]["F1"], abs=1e-3)
        text = unescape(re.sub("<.*?>", " ", page))
        assert f"first for {metrics['P@1']:.0%} of 40 pictures" in text
        assert f"off by {metrics['ece']:.3f} on average" in text
        bars = page.count('<g class="main"><title>said')
        assert bars == len(metrics["reliability"])


KEYS = ("P@1", "mAP", "oP", "oR", "oF1", "F1", "N+")


@pytest.mark.parametrize("name", BUNDLES)
def test_every_method_has_a_report(
    job: Job, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of earlier versions too; what a method cannot show is said."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(TRUSTED, "file:tests/data/network.pt")
    data = ROOT / "tests" / "data" / "store.parquet"
    if name == "bundle-cnn":
        data = write_pictures(tmp_path / "pictures.parquet", 12)
    out = tmp_path / "page.html"
    bundle = ROOT / "tests" / "data" / name
    done = job("report", "--model", bundle, "--data", data, "--out", out, "--samples", 6)
    assert done.returncode == 0, done.stderr
    page = out.read_text("utf-8")
    has_map = name not in ("bundle-knn", "bundle-popularity")
    assert ('id="map"' in page) == has_map
    assert ("has no vectors of tags" in page) != has_map
    assert "no event files" in page
    assert ("No probabilities" in page) == ('id="probabilities"' not in page)
    pictures = page.count("<img src=")
    assert pictures == page.count('class="card"') > 6 if name == "bundle-cnn" else not pictures


def test_rows_without_tags_and_a_single_row(job: Job, model: Path, tmp_path: Path) -> None:
    table = planted_table(9)
    tags = table["tags"].to_pylist()
    tags[2], tags[5] = [], None
    data = tmp_path / "some.parquet"
    pq.write_table(table.set_column(2, "tags", pa.array(tags, pa.list_(pa.string()))), data)
    page = report(job, model, data)
    assert "of 7 pictures" in page and "2 rows without tags were left out" in page
    single = report(job, model, store_at(tmp_path / "one.parquet", 1), "--k", 2)
    assert "of 1 picture</h1>" in single
    sample = single.partition('id="pictures"')[2].partition("</section>")[0]
    assert sample.count('class="card"') == 1
    # Of one of these alone the model knows a tag.
    heard = [table["tags"][0].as_py(), *[["unheard of"]] * 8]
    other = table.set_column(2, "tags", pa.array(heard))
    pq.write_table(other, data)
    page = report(job, model, data)
    assert page.count("not known") >= 8


def test_tags_by_name_alone_are_marked(job: Job, model: Path, tmp_path: Path) -> None:
    data = store_at(tmp_path / "test.parquet")
    assert "by its name alone" not in report(job, model, data)
    named = write_drel(
        tmp_path / "named", dim=16, decider=random_decider(12), images=60, unseen=(2, 7)
    )
    page = report(job, named, data)
    cards = re.findall(r"<span>(tag-\d\d)( <small[^>]*>by its name alone</small>)?</span>", page)
    assert {name for name, mark in cards if mark} == {"tag-02", "tag-07"}
    assert not {name for name, mark in cards if not mark} & {"tag-02", "tag-07"}
    assert "2 tags without any training image, known by name alone" in page


def test_curves_of_the_training(job: Job, model: Path, tmp_path: Path) -> None:
    data = store_at(tmp_path / "test.parquet")
    assert 'id="training"' not in report(job, model, data)
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in range(0, 500, 50):
            writer.add_scalar("train/loss", 5.0 / (1 + step), step)
            writer.add_scalar("watch/F1", step / 1000, step)
            writer.add_scalar("watch/oF1", step / 800, step)
            writer.add_scalar("watch/floor F1", 0.01, step)
    page = report(job, model, data)
    assert "step 450: F1 0.450" in page and "step 450: floor F1 0.010" in page
    assert "step 0: loss 5.000" in page
    (tmp_path / "tensorboard" / "events.out.tfevents.9999999999.x").write_bytes(b"\0\1 damaged")
    report(job, model, data)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--pictures", "nowhere"], "nowhere: no such file or folder; give --pictures a folder"),
        (["--pictures", ""], "'': no such file or folder; give --pictures a folder"),
        (
            ["--dry_run", "--pictures", "nowhere"],
            "nowhere: no such file or folder; give --pictures",
        ),
        (["--dry_run", "--beside", "nowhere.json"], "nowhere.json: no metrics can be read"),
        (["--beside", "nowhere.json"], "nowhere.json: no metrics can be read"),
        (["--beside", "{here}/v1/config.json"], "config.json: no metrics can be read"),
        (
            ["--beside", "{here}/text.json"],
            "text.json: no metrics can be read ('<script>' is no number)",
        ),
        (
            ["--beside", "{here}/there/fewer.json"],
            "kNN (there) was scored with images = 5, this model with",
        ),
        (["--beside", "{here}/nan.json"], "nan.json: no metrics can be read ('nan' is no number)"),
        (["--beside", "{here}/deep.json"], "deep.json: no metrics can be read"),
        (["--out", "{here}/" + "n" * 300], "--out cannot be written (File name too long)"),
        (["--samples", "0"], "samples is 0; it must be in [1, 500]"),
        (["--map_tags", "-1"], "map_tags is -1; it must be in [0, 3000]"),
        (["--precision", "0.9"], "precision needs decide threshold"),
        (["--out", "{here}"], "--out is a folder; give the file to write, such as report.html"),
        (["--out", "{here}/old.html/x.html"], "--out is a file; give a folder"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_old_page(
    job: Job, model: Path, tmp_path: Path, arguments: list[str], line: str
) -> None:
    old = tmp_path / "old.html"
    old.write_text("as it was")
    data = store_at(tmp_path / "test.parquet", 6)
    bad = {"method": "knn", "decisions": {"top": {"F1": "<script>"}}}
    (tmp_path / "text.json").write_text(json.dumps(bad))
    (tmp_path / "nan.json").write_text('{"method": "a", "decisions": {"top": {"F1": NaN}}}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "there").mkdir()
    fewer = {"method": "knn", "images": 5, "decisions": {"top": {"F1": 0.5}}}
    (tmp_path / "there" / "fewer.json").write_text(json.dumps(fewer))
    before = sorted(tmp_path.rglob("*"))
    given = [part.format(here=tmp_path) for part in arguments]
    done = job("report", "--model", model, "--data", data, "--out", old, *given)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and line in done.stderr
    assert old.read_text() == "as it was" and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["report", "evaluate"])
def test_figures_of_no_image_are_refused(job: Job, model: Path, tmp_path: Path, verb: str) -> None:
    """Rows that only the model finds bad, all left out."""
    table, huge = planted_table(4), pa.array([3e38] * 4 * 16, pa.float32())
    features = pa.FixedSizeListArray.from_arrays(huge, 16)
    pq.write_table(table.set_column(1, "features", features), tmp_path / "huge.parquet")
    out = ("--out", tmp_path / "x") if verb == "report" else ("--json", tmp_path / "x")
    asked = ("--model", model, "--data", tmp_path / "huge.parquet", "--on_bad_row", "skip")
    done = job(verb, *asked, *out)
    assert done.returncode == 2 and not (tmp_path / "x").exists()
    assert "no row is left to score: of 4 bad rows all were left out" in done.stderr


@pytest.mark.parametrize("verb", ["report", "evaluate"])
def test_a_store_with_none_of_the_models_tags_is_refused(
    job: Job, model: Path, tmp_path: Path, verb: str
) -> None:
    table = planted_table(4)
    strange = pa.array([["never", "heard"]] * 4, pa.list_(pa.string()))
    place = table.schema.get_field_index("tags")
    pq.write_table(table.set_column(place, "tags", strange), tmp_path / "strange.parquet")
    out = ("--out", tmp_path / "x") if verb == "report" else ("--json", tmp_path / "x")
    done = job(verb, "--model", model, "--data", tmp_path / "strange.parquet", *out)
    assert done.returncode == 2 and not (tmp_path / "x").exists()
    assert "is on any of these 4 images" in done.stderr and done.stderr.count("\n") == 1


def test_a_model_below_the_floor_is_called_so(job: Job, model: Path, tmp_path: Path) -> None:
    data, below = store_at(tmp_path / "test.parquet"), "he model does not beat the popularity floor"
    advice = "With k 12 all 12 tags are said of every image: give a smaller --k."
    page = unescape(report(job, model, data, "--k", 12))
    assert f"T{below} on these images.</b> {advice}" in page
    said = job("evaluate", "--model", model, "--data", data, "--k", 12).stdout
    assert f"WARNING: t{below} on these images. {advice}" in said


def test_results_of_compare_beside_it(job: Job, model: Path, tmp_path: Path) -> None:
    data, file = store_at(tmp_path / "test.parquet"), tmp_path / "one.json"
    job("evaluate", "--model", model, "--data", data, "--json", file)
    runs = [json.loads(file.read_text())]
    results = {
        "methods": [
            {"name": "popularity", "runs": [{"F1": 0.1}]},
            {"name": "knn", "runs": runs},
            {"name": "svm", "runs": []},
        ]
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = report(job, model, data, "--beside", tmp_path / "results.json")
    assert [row[0] for row in rows_of(page)["top"]] == ["popularity floor", "kNN", "DREL"]


def test_names_that_are_no_text_are_written_all_the_same(
    job: Job, model: Path, tmp_path: Path
) -> None:
    data, file = store_at(tmp_path / "test.parquet", 6), tmp_path / "half.json"
    file.write_text('{"methods": [{"name": "\\ud800", "runs": [{"decisions": {"top": {}}}]}]}')
    assert rows_of(report(job, model, data, "--beside", file))["top"][1][0] == "?"


def test_from_s3_to_s3(job: Job, model: Path, tmp_path: Path, s3: Bucket) -> None:
    from distributed.storage.folder import Folder

    data = store_at(tmp_path / "test.parquet", 8)
    (tmp_path / "image-3.png").write_bytes(encoded(["red"], 0))
    bucket = Folder.of(s3.at(""))
    for path in [data, *model.iterdir(), tmp_path / "image-3.png"]:
        place = {data: "store/a.parquet"}.get(path, f"model/{path.name}")
        bucket.put("pictures/image-3.png" if path.suffix == ".png" else place, path)
    local = report(job, model, data, "--pictures", tmp_path)
    done = job(
        *("report", "--model", s3.at("model"), "--data", s3.at("store")),
        *("--pictures", s3.at("pictures"), "--out", s3.at("pages/one.html")),
    )
    assert done.returncode == 0, done.stderr
    written = bucket.read("pages/one.html")
    assert written is not None
    page = written.decode()
    assert rows_of(page) == rows_of(local)
    assert page.count("<img src=") == local.count("<img src=") >= 1


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver = start_browser()
    try:
        yield driver
    finally:
        driver.quit()


DARK = [{"name": "prefers-color-scheme", "value": "dark"}]


def show(browser: webdriver.Chrome, page: Path, width: int, mode: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": mode}]},
    )
    browser.get(page.as_uri())


def test_hostile_names_are_text(browser: webdriver.Chrome, job: Job, tmp_path: Path) -> None:
    """Of tags, images, the store and the method it is compared with."""
    model = write_drel(
        tmp_path / "v1", dim=16, names=HOSTILE, decider=random_decider(12), images=60
    )
    table = planted_table(24)
    tags = [[HOSTILE[int(tag[-2:])] for tag in row] for row in table["tags"].to_pylist()]
    tags[3].append("<b>unheard of</b>")
    ids = [f"{HOSTILE[row % 12]} {row}" for row in range(24)]
    table = table.set_column(0, "image_id", pa.array(ids)).set_column(2, "tags", pa.array(tags))
    data = tmp_path / "<script>alert(1)<"
    data.mkdir()
    pq.write_table(table, data / "part.parquet")
    (tmp_path / "results.json").write_text(
        json.dumps({"methods": [{"name": HOSTILE[1], "runs": [{"decisions": {"top": {}}}]}]})
    )
    report(job, model, data, "--beside", tmp_path / "results.json")
    show(browser, tmp_path / "page.html", 1200)
    assert browser.title == f"DREL on {data}"
    assert browser.get_log("browser") == []
    count = "return document.querySelectorAll(arguments[0]).length"
    for selector in ("script", "img", "b b", "[onerror]", "h1 ~ h1", "iframe"):
        assert browser.execute_script(count, selector) == 0, selector
    names = "return [...document.querySelectorAll('.card li > span:nth-child(2)')].map(e => e.textContent)"
    shown = set(browser.execute_script(names))
    clean = {" ".join(name.split()) for name in HOSTILE}
    assert {" ".join(name.split()) for name in shown} == clean | {"<b>unheard of</b>"}
    titles = "return [...document.querySelectorAll('.id')].map(e => e.title)"
    assert sorted(browser.execute_script(titles)[:24]) == sorted(ids)


def test_it_is_a_page_that_fits(
    browser: webdriver.Chrome, job: Job, model: Path, tmp_path: Path
) -> None:
    """Pictures load, nothing is asked from elsewhere, and nothing is wider than a phone."""
    table = planted_table(30)
    pictures = pa.array([encoded(["red", "blue"], row) for row in range(30)], pa.binary())
    data = tmp_path / "test.parquet"
    pq.write_table(table.append_column("image", pictures), data, row_group_size=7)
    page = report(job, model, data, "--samples", 8)
    assert not re.findall(r"https?://", page)
    for width in (1240, 390):
        show(browser, tmp_path / "page.html", width)
        assert browser.get_log("browser") == []
        sizes = "return [...document.images].map(image => image.naturalWidth)"
        assert browser.execute_script(sizes) == [48] * page.count("<img src=") != []
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= width
    assert browser.find_element(By.CSS_SELECTOR, "#pictures .card img").is_displayed()
    # Right and wrong differ in their marks, for who sees no colours, and are spoken.
    marks = (
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent + e.ariaLabel)"
    )
    kinds = {"right": "✓right", "wrong": "✗wrong", "miss": "○missed"}
    for kind, mark in kinds.items():
        assert set(browser.execute_script(marks, f".card .{kind} .mark")) == {mark}
    # Dark mode: text and panels change their colours, on the charts too.
    colours = (
        "return ['h1', '.panel', '.chart .tick'].map(one => {const s = getComputedStyle("
        "document.querySelector(one)); return s.color + s.backgroundColor + s.fill})"
    )
    light = browser.execute_script(colours)
    show(browser, tmp_path / "page.html", 390, "dark")
    assert all(a != b for a, b in zip(light, browser.execute_script(colours), strict=True))
    # On paper it is light.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": DARK})
    assert browser.execute_script(colours) == light

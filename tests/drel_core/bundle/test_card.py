"""The model card: says what the bundle says, of every method and age; what strangers wrote is text in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from drel_core.bundle.card import CardFacts, model_card, plain
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from tests.helpers.commands import ROOT

BUNDLES = sorted(
    place.parent for place in (ROOT / "tests" / "data").glob("bundle-*/model/config.json")
)
# Of https://github.com/huggingface/hub-docs/blob/main/modelcard.md
FIELDS = {
    *("language", "license", "license_name", "license_link", "library_name", "tags", "datasets"),
    *("metrics", "base_model", "pipeline_tag", "thumbnail", "model-index", "new_version"),
}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/a.png)",
    "[x](javascript:alert(1))",
    "a | b | c",
    "`code`",
    "**bold** _it_ ~~gone~~ $math$",
    "line\n\n# heading",
    "&lt;b&gt; &amp;",
    "www.evil.example https://evil.example me@evil.example",
    "\u202etxt.exe\u2066",
    "- item",
    "1. item",
    "===",
    "x" * 500,
    "\\",
    "\\|",
)
SAID = {
    "rows": 920,
    "kind": "rows left out of a fit",
    **{"F1": 0.3252, "N+": 185, "oF1": 0.559, "P@1": 0.7413},
    "floor": {"F1": 0.005, "N+": 5, "oF1": 0.268, "P@1": 0.307},
}


def described(**more: Any) -> BundleInfo:
    content = {
        "format": 1,
        "method": "drel",
        "version": "abc123",
        "num_tags": 3,
        "trained_at": "2026-11-26T15:36:44+00:00",
        "written_by": "drel 0.1 (git abc)",
        "image_dim": 4,
        "columns": [{"name": "features", "dim": 4}],
        "train": {"seconds": 12.0, "workers": 2, "left_out": SAID},
        "config": {"data": {"train": "/home/ann/secret/train.parquet"}, "epochs": 7},
        **more,
    }
    return BundleInfo.of(content)


def card_of(info: BundleInfo, names: tuple[str, ...] = ("sky", "sea", "cat"), **facts: Any) -> str:
    counts = np.arange(len(names))[::-1] * 7
    return model_card(info, Vocabulary(names, counts), CardFacts(100, **facts))


def front_of(card: str) -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return held


class Elements(HTMLParser):
    """Names of all elements, and what is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.shown: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.names.add(tag)
        assert not attributes, (tag, attributes)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def rendered(markdown: str) -> Elements:
    """As GitHub does, links of bare addresses and tables included."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Elements(parser.render(markdown))


@pytest.mark.parametrize(
    ("landmarks", "kernel", "says"), [(90, False, 1), (90, True, 0), (0, False, 0)]
)
def test_a_kernel_that_was_left_out_is_said_to_be(landmarks: int, kernel: bool, says: int) -> None:
    card = card_of(described(config={"kernel": {"landmarks": landmarks}}), kernel=kernel)
    assert f"| `--kernel.landmarks` | {landmarks} |" in card
    assert card.count("The kernel was left out") == says


@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_is_shown_and_not_read(text: str) -> None:
    for around in ("| {} | b |\n|---|---|\n| {} | c |\n", "- {}\n", "So {}.\n"):
        html = rendered(around.format(*[plain(text)] * 2))
        assert html.names <= {"table", "thead", "tbody", "tr", "th", "td", "ul", "li", "p"}
        shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
        shown = shown if len(shown) <= 60 else shown[:59] + "…"
        assert " ".join(shown.split()) in " ".join("".join(html.shown).split())
    for bare in re.findall(r"www.{2}|.{2}//|.@", plain(text)):  # GitHub would make links of these
        assert "\\" in bare


def test_hostile_names_of_tags_columns_and_stores() -> None:
    info = described(
        columns=[{"name": "<b>`|\n", "dim": 4}],
        features={"kind": "cnn", "name": "timm:<i>x</i>|"},
        config={"data": {"train": "s3://bucket/<u>|.parquet?endpoint_override=x"}},
        train={"seconds": 1.0, "workers": 1, "warnings": ["<s>", "# big"]},
    )
    card = card_of(info, HOSTILE, decisions=("top", "macro"))
    html = rendered(card.split("---\n", 2)[2])
    assert not html.names & {"b", "i", "u", "s", "script", "img", "a", "em", "strong", "del"}
    assert card.count("\n# ") == 1
    assert "endpoint" not in card and "bucket" not in card
    cells = {line.count(" | ") for line in card.splitlines() if line.startswith("| most frequent")}
    assert cells == {1}


def test_the_card_says_what_a_stranger_wants_to_know() -> None:
    facts = {
        "decisions": ("top", "macro", "threshold"),
        "calibration_error": 0.014,
        "kept_rows": 55,
    }
    card = card_of(described(), **facts)
    assert (
        set(front_of(card)) <= FIELDS and front_of(card)["pipeline_tag"] == "image-classification"
    )
    for said in (
        "# Image annotation model abc123",
        "which of 3 tags",
        "on 2026-11-26",
        "`features` (4 numbers)",
        "| store | train.parquet |",
        "| images | 100 |",
        "| tags with fewer than 10 images | 2 |",
        "| tags without any image, by name alone | 1 |",
        "sky (14), sea (7), cat (0)",
        "55 training rows",
        "| 920 rows left out of a fit | 0.741 | 0.325 | 185 | 0.559 |",
        "| the most frequent tags on the same | 0.307 | 0.005 | 5 | 0.268 |",
        "off by 0.014 on average",
        "| `--epochs` | 7 |",
        "drel 0.1 (git abc)",
        "python -m jobs.annotate --model MODEL",
    ):
        assert said in card, said
    assert "home" not in card and "ann/" not in card and "secret" not in card


def test_an_update_says_where_it_comes_from() -> None:
    card = card_of(described(parent="0ld", images=140, new_images=40, new_tags=2))
    assert "| made from | version 0ld" in card
    assert "| images | 140 over this version and those before it |" in card
    assert "| new in this version | 40 images |" in card
    assert "| new tags in this version | 2 |" in card
    assert "| store |" not in card


@pytest.mark.parametrize(
    ("features", "line"),
    [
        (
            {"kind": "cnn", "name": "efficientnet-lite0"},
            "EfficientNet-Lite0 and its weights: Apache-2.0",
        ),
        ({"kind": "cnn", "name": "timm:vit"}, "timm\\:vit and its weights: not known to DREL"),
        (
            {"kind": "cnn", "name": "file:/home/ann/n.pt2"},
            "file\\:n.pt2 and its weights: not known",
        ),
        (
            {"columns": {"a": {"kind": "lowlevel"}, "b": {"kind": "cnn", "name": "timm:x"}}},
            "timm\\:x and",
        ),
        ({"kind": "lowlevel"}, ""),
        (None, ""),
    ],
)
def test_the_licence_of_the_network(features: dict[str, Any] | None, line: str) -> None:
    licences = card_of(described(features=features)).split("## Licences")[1].split("##")[0]
    assert line in licences
    assert ("The network" in licences) == bool(line)
    assert "/home" not in licences


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda place: place.parent.name)
def test_bundles_of_every_method_and_age_have_a_card(folder: Path) -> None:
    """Of what earlier code wrote: much is not known of the first ones."""
    info, vocabulary = read_info(folder), read_vocabulary(folder)
    card = model_card(info, vocabulary, CardFacts(100))
    assert set(front_of(card)) <= FIELDS
    assert info.version in card and f"which of {len(vocabulary):,} tags" in card
    assert "None" not in card.replace("`None`", "")
    assert rendered(card.split("---\n", 2)[2]).names >= {"h1", "h2", "table", "ul", "pre"}

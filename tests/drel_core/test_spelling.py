"""Which names are written nearly alike, and which only look so."""

from __future__ import annotations

import random
import time

import pytest

from drel_core.spelling import alike, plain_form, singular, singular_form


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("T-Shirt", "t shirt", "same letters"),
        ("café", "Cafe", "same letters"),
        ("north_america", "northamerica", "same letters"),
        ("dog", "dogs", "plural"),
        ("city", "cities", "plural"),
        ("movie", "movies", "plural"),
        ("box", "boxes", "plural"),
        ("snow man", "snow men", "plural"),
        ("mouse", "mice", "plural"),
        ("t-shirt", "tshirts", "plural"),
        ("vegetable", "vegitable", "one letter"),
        ("colour", "color", "one letter"),
        ("recieve", "receive", "one letter"),
    ],
)
def test_pairs_that_may_be_one_tag(one: str, other: str, how: str) -> None:
    assert list(alike([one, "zebra", other])) == [(0, 2, how)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("new", "news"),
        (":-)", ":-("),
        ("c", "c++"),
        ("1920s", "1930s"),
        ("flight", "light"),
        ("cat", "cap"),
        ("bus", "bu"),
        ("", "s"),
    ],
)
def test_pairs_that_are_not(one: str, other: str) -> None:
    assert not list(alike([one, other]))


def test_forms_of_other_scripts_and_signs_are_kept() -> None:
    assert plain_form("雪") == "雪" and plain_form("--") == "--"
    assert singular_form("Überraschungen") == "uberraschungen"
    assert singular("glass") == "glass" and singular("children") == "child"


def test_a_hundred_thousand_names_take_seconds() -> None:
    generator = random.Random(0)
    names = {
        "".join(generator.choices("etaoinshrdlu", k=generator.randint(4, 14)))
        for _ in range(20_000)
    }
    started = time.perf_counter()
    found = list(alike([*names, *(f"{name}{i}" for i, name in enumerate(["same"] * 5000))]))
    assert found and time.perf_counter() - started < 20

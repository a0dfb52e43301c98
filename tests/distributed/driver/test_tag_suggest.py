"""Suggestions are right where the store says so, and are a vocabulary file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.tag_reader import TagReader
from distributed.driver.tag_check import effect_lines, effects_of_model, rule_effects
from distributed.driver.tag_suggest import (
    Suggestions,
    Text,
    count_together,
    suggest,
    suggestions_text,
    wilson_least,
)
from drel_core.bundle.tag_rules import TagGroup, TagRules


def store(path: Path, rows: list[list[str]]) -> TagReader:
    table = pa.table({"image_id": [str(i) for i in range(len(rows))], "tags": rows})
    pq.write_table(table, path, row_group_size=64)
    return TagReader.open(str(path))


@pytest.fixture
def reader(tmp_path: Path) -> TagReader:
    """Dogs are animals; ``poodle`` is always a dog; ``dogs`` and ``Dog`` are spellings; ``vegitable`` is on
    images like those of ``vegetable``, ``planet`` is not on images like those of ``plant``."""
    rows = [["dog", "animal"]] * 40 + [["dogs", "animal"]] * 5 + [["Dog", "animal"]] * 3
    rows += [["poodle", "dog", "animal"]] * 25 + [["cat", "animal"]] * 30
    rows += [["vegetable", "market", "basket"]] * 12 + [["vegitable", "market", "basket"]] * 4
    rows += [["planets", "sky", "stars"]] * 8 + [["plants", "garden", "soil"]] * 8
    rows += [[f"word-{i}"] for i in range(100)]
    return store(tmp_path / "store.parquet", rows)


def suggested(reader: TagReader, rules: TagRules | None = None) -> Suggestions:
    return suggest(reader.counts().names, reader, rules or TagRules())


def test_what_is_found(reader: TagReader) -> None:
    found = suggested(reader)
    assert {(one.tag, one.into, one.how, one.images, one.together) for one in found.aliases} == {
        ("Dog", "dog", "same letters", 3, 0),
        ("dogs", "dog", "plural", 5, 0),
        ("vegitable", "vegetable", "one letter", 4, 0),
    }
    # Poodles are animals because dogs are; dogs are counted in all spellings.
    said = [(one.tag, one.into, one.both, one.images, one.into_images) for one in found.implied]
    assert ("dog", "animal", 73, 73, 103) in said and ("poodle", "dog", 25, 25, 73) in said
    assert not any(one.tag == "poodle" and one.into == "animal" for one in found.implied)


def test_the_file_holds_and_says_why(reader: TagReader) -> None:
    found = suggested(reader)
    text = suggestions_text(found, "a store\nwith two lines")
    rules = TagRules.parse(text)
    assert rules.aliases == {"Dog": "dog", "dogs": "dog", "vegitable": "vegetable"}
    assert rules.implied["poodle"] == ("dog", "animal")
    assert (
        "# same letters; on 3 and 70 images, on 0 both" not in text
    )  # 65: spellings are apart here
    assert "on 25 of its 25 images (surely on 87%), 73 in all" in text
    # What was accepted is not suggested again.
    again = suggest([n for n in reader.counts().names if n not in rules.aliases], reader, rules)
    assert not again.aliases and not any(one.tag == "poodle" for one in again.implied)
    assert TagRules.parse(suggestions_text(Suggestions((), (), 0), "nothing")) == TagRules()


def test_names_that_would_break_the_file_do_not(tmp_path: Path) -> None:
    hostile = [
        "a: b",
        "#x",
        "- [y",
        "two\nlines",
        'quo"te',
        "é\u2028",
        "no",
        "*star",
        "\U0001f600 face",
    ]
    rows = [
        [f"{name} word", f"{name} words", f"{name} thing"] for name in hostile for _ in range(3)
    ]
    rows += [[f"{name} thing", "a lot"] for name in hostile for _ in range(20)] + [["a lot"]] * 300
    text = suggestions_text(suggested(store(tmp_path / "s.parquet", rows)), "x")
    rules = TagRules.parse(text)
    assert len(rules.aliases) == len(hostile)
    assert {frozenset(pair) for pair in rules.aliases.items()} == {
        frozenset((f"{name} word", f"{name} words")) for name in hostile
    }


def test_near_names_come_first(tmp_path: Path) -> None:
    rows = [["black", "bear"]] * 30 + [["grizzly", "bear"]] * 30 + [["bear"]] * 60 + [["x"]] * 200
    reader = store(tmp_path / "s.parquet", rows)
    names = reader.counts().names
    vectors = {"bear": [1.0, 0.0], "grizzly": [0.8, 0.6], "black": [0.0, 1.0]}
    unit_Td = np.array([vectors.get(name, [0.0, 0.0]) for name in names], np.float32)
    text = Text(unit_Td, unit_Td.any(1))
    found = suggest(names, reader, TagRules(), text=text)
    assert [(one.tag, round(one.text or 0, 1)) for one in found.implied] == [
        ("grizzly", 0.8),
        ("black", 0.0),
    ]


def test_counts_are_those_of_a_loop(reader: TagReader) -> None:
    names = reader.counts().names
    rows = [
        row for part in reader.units[:1] for row in pq.read_table(part.path)["tags"].to_pylist()
    ]
    found = count_together(reader, pa.array(names)).together_TT.toarray()
    for i in range(0, len(names), 7):
        for j in range(0, len(names), 5):
            assert found[i, j] == sum(names[i] in row and names[j] in row for row in rows)


def test_the_least_share_is_that_of_the_books() -> None:
    # Wilson's interval of 8 in 10 is .490 to .943, of 10 in 10 .722 to 1.
    found = wilson_least(np.array([8, 10]), np.array([10, 10]))
    np.testing.assert_allclose(found, [0.4902, 0.7225], atol=1e-4)


def test_what_rules_change_is_counted(reader: TagReader) -> None:
    rules = TagRules(
        aliases={"Dog": "dog", "dogs": "dog", "hound": "dog"},
        implies={"dog": ("animal",), "vegetable": ("food",)},
        groups={
            "beasts": TagGroup(("poodle", "dog", "cat")),
            "one": TagGroup(("market", "basket"), 1),
        },
        blocked=("soil",),
        split={"plants": ("big plants",), "market": ("basket", "stall")},
    )
    found = rule_effects(rules, reader)
    assert found.images == 235
    assert found.aliases == {"Dog": 3, "dogs": 5, "hound": 0}
    assert found.implied == {("dog", "animal"): 0, ("vegetable", "food"): 12}
    assert (found.blocked, found.too_many) == ({"soil": 8}, {"one": 16})
    assert found.split == {"plants": 8, "market": 0}  # each market has its basket
    lines = list(effect_lines(found, True, 1))
    assert "        5  dogs" in lines and "           … and 2 more (--limit 0 shows all)" in lines
    known = reader.counts()
    model = effects_of_model(rules, known.names, known.count_T)
    assert model.aliases["dogs"] == 5 and model.implied["dog", "animal"] == 65

"""A store with both spellings trains as one tag, and the bundle keeps the rules: through training, answers,
and updates from images and from feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles.edit import BundleEdits, edit_bundle
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import Correction, append
from distributed.data.survey import survey_store
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData, UpdateTags
from distributed.inference.evaluate import evaluate_store
from distributed.storage.folder import Folder
from distributed.training.config import TagsConfig, TrainConfig, with_option
from drel_core.annotators.base import choose, decision_of, rules_of
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import content_version, read_info, read_rules, read_vocabulary
from drel_core.bundle.tag_edits import TagEdits
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from tests.helpers.stores import planted_table
from tests.helpers.training import small_config

RULES = TagRules.parse(
    "aliases: {TAG 1: tag-01}\nimplies: {tag-01: animal, tag-02: animal}\n"
    "groups: {one: {tags: [tag-03, tag-04], at_most: 1}}\nblocked: [tag-11]"
)


def write_store(path: Path, rows: int = 150, spelled: bool = True, first: int = 0) -> Path:
    """A planted store, every other tag-01 as ``TAG 1`` or, not ``spelled``, as the rules would have it."""
    table = planted_table(rows, seed=first, first=first)
    tags = [list(row) for row in table.column("tags").to_pylist()]
    if spelled:
        tags = [["TAG 1" if t == "tag-01" and i % 2 else t for t in r] for i, r in enumerate(tags)]
    else:
        tags = [RULES.applied(row) for row in tags]
    table = table.set_column(2, "tags", pa.array(tags, pa.list_(pa.string())))
    pq.write_table(table, path, row_group_size=32)
    return path


def rules_file(folder: Path, rules: TagRules = RULES) -> str:
    path = folder / f"{rules.digest}.yaml"
    path.write_text(rules.to_yaml(), encoding="utf-8")
    return str(path)


def trained(folder: Path, store: Path, name: str, **options: Any) -> TrainConfig:
    config = small_config(store, folder / name, epochs=2)
    for option, value in options.items():
        config = with_option(config, option.replace("__", "."), value)
    train.run(config, log=lambda line: None, launcher=launch)
    return config


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    store = write_store(folder / "spelled.parquet")
    trained(folder, store, "v0", tags=TagsConfig(vocabulary=rules_file(folder)))
    return folder


def test_both_spellings_train_as_one_tag(begun: Path) -> None:
    plain = trained(begun, write_store(begun / "plain.parquet", spelled=False), "plain")
    one, other = begun / "v0" / "model", Path(plain.out) / "model"
    names = read_vocabulary(one).names
    assert "TAG 1" not in names and "tag-11" not in names and "animal" in names
    assert read_vocabulary(one).to_dict() == read_vocabulary(other).to_dict()
    for path in sorted(other.glob("*.safetensors")):
        assert path.read_bytes() == (one / path.name).read_bytes(), path.name
    kept = pq.read_table(one / "reservoir.parquet").column("tags")
    assert kept.equals(pq.read_table(other / "reservoir.parquet").column("tags"))
    card = (one / "README.md").read_text("utf-8")
    assert "vocabulary.yaml: other spellings: 1; tags that imply others: 2; groups: 1" in card
    assert read_rules(one) == RULES and not read_rules(other)
    # The rules are part of what the version is a hash of.
    assert read_info(one).version == content_version(one) != read_info(other).version


def test_no_answer_of_the_model_breaks_a_rule(begun: Path) -> None:
    annotator = load_bundle(begun / "v0")
    store = FeatureStore.open(str(write_store(begun / "test.parquet", 60, first=500)))
    survey = survey_store(store, "fail", rules=rules_of(annotator))
    metrics = evaluate_store(annotator, annotator.vocabulary, survey, store.columns)
    assert metrics["tags_scored"] == 12 and metrics["F1"] > metrics["floor"]["F1"]
    assert {"top", "macro", "threshold"} == set(metrics["decisions"])
    features = np.stack(pq.read_table(store.path).column("features").to_numpy())
    for how in ("top", "macro", "threshold"):
        found = choose(annotator, torch.from_numpy(features), 4, decision_of(annotator, how))
        said = [
            {annotator.vocabulary.names[t] for t in row if t >= 0} for row in found.ids.tolist()
        ]
        assert any("tag-01" in row for row in said)
        for row in said:
            assert "animal" in row or not row & {"tag-01", "tag-02"}
            assert len(row & {"tag-03", "tag-04"}) < 2


def test_other_rules_are_another_run(begun: Path) -> None:
    config = small_config(begun / "spelled.parquet", begun / "v0", epochs=2)
    with pytest.raises(InputError, match=r"tags.vocabulary"):
        train.run(config, log=lambda line: None, launcher=launch)


def updated(begun: Path, name: str, **options: Any) -> tuple[Path, str]:
    lines: list[str] = []
    config = UpdateConfig(model=str(begun / "v0"), out=str(begun / name), epochs=1, **options)
    update.run(config, lines.append, launcher=launch)
    return begun / name / "model", "\n".join(lines)


def test_an_update_goes_on_with_the_rules_of_the_model(begun: Path) -> None:
    data = UpdateData(new=str(write_store(begun / "new.parquet", 40, first=900)))
    model, _ = updated(begun, "v1", data=data)
    assert read_rules(model) == RULES
    assert read_vocabulary(model).names == read_vocabulary(begun / "v0" / "model").names


def test_an_update_takes_another_file_in_its_place(begun: Path) -> None:
    rules = TagRules.parse("aliases: {tag-02: tag-01, unheard: of}\nimplies: {tag-01: living}")
    data = UpdateData(new=str(write_store(begun / "more.parquet", 40, spelled=False, first=700)))
    tags = UpdateTags(vocabulary=rules_file(begun, rules))
    model, said = updated(begun, "v2", data=data, tags=tags)
    assert read_rules(model) == rules
    assert "that the rules call other spellings: 'tag-02'" in said and "'of'" in said
    names = read_vocabulary(model).names
    assert names[-1] == "living" and "tag-02" in names  # an id keeps its tag
    annotator = load_bundle(model)
    features = np.stack(pq.read_table(data.new).column("features").to_numpy())
    ids = choose(annotator, torch.from_numpy(features), 5, decision_of(annotator, "top")).ids
    said_names = [{names[t] for t in row} for row in ids.tolist()]
    assert not any("tag-02" in row for row in said_names)
    assert all("living" in row for row in said_names if "tag-01" in row)


def test_feedback_is_read_by_the_rules(begun: Path) -> None:
    kept = pq.read_table(begun / "v0" / "model" / "reservoir.parquet").to_pylist()
    animal = next(row for row in kept if "tag-01" in row["tags"] and len(row["tags"]) > 2)
    value = np.ones(16, dtype=np.float32)
    append(
        str(begun / "feedback"),
        [
            Correction("new", value, ["TAG 1", "tag-11", "tag-05"], [], "v"),
            Correction(animal["image_id"], value, [], ["animal"], "v"),
        ],
    )
    updated(begun, "v3", from_feedback=str(begun / "feedback"))
    rows = pq.read_table(begun / "v3" / "feedback.parquet").to_pylist()
    tags = {row["image_id"]: row["tags"] for row in rows}
    assert tags["new"] == ["animal", "tag-01", "tag-05"]
    # Who says that it is no animal says that it is none of what would make it one.
    expected = set(animal["tags"]) - {"animal", "tag-01", "tag-02"}
    assert set(tags[animal["image_id"]]) == expected


def test_a_file_that_lets_tags_back_in_says_which(begun: Path) -> None:
    edits = TagEdits(merge={"tag-06": "tag-07"}, split={"tag-05": ("x", "y")})
    edit_bundle(BundleEdits.of(str(begun / "v0"), edits), Folder(str(begun / "edited")), print)
    new = str(write_store(begun / "back.parquet", 60, first=1800))

    def warned(out: str, rules: TagRules) -> list[str]:
        lines: list[str] = []
        config = UpdateConfig(
            model=str(begun / "edited"),
            data=UpdateData(new=new),
            tags=UpdateTags(vocabulary=rules_file(begun, rules)),
            out=str(begun / out),
            epochs=1,
        )
        update.run(config, lines.append, launcher=launch)
        return [line for line in lines if "answers again" in line]

    (said,) = warned("v5", RULES)
    assert said.startswith("WARNING") and "'tag-05' (split), 'tag-06' (means 'tag-07')" in said
    assert warned("v6", read_rules(begun / "edited" / "model")) == []


def test_what_still_carries_a_tag_that_was_split_is_left_out_with_a_warning(begun: Path) -> None:
    edits = BundleEdits.of(str(begun / "v0"), TagEdits(split={"tag-05": ("x", "y")}))
    edit_bundle(edits, Folder(str(begun / "split")), print)
    new = write_store(begun / "after.parquet", 60, first=1200)
    tags_N = pq.read_table(new).column("tags").to_pylist()
    old = sum("tag-05" in tags for tags in tags_N)
    bare = sum(not RULES.applied(tags) for tags in tags_N)
    value = np.ones(16, dtype=np.float32)
    corrections = [
        Correction("old", value, ["tag-05", "tag-06"], [], "v"),
        Correction("said", value, ["tag-05", "x", "tag-06"], [], "v"),
        Correction("neither", value, ["y", "tag-07"], ["tag-05"], "v"),
    ]
    append(str(begun / "split-feedback"), corrections)
    lines: list[str] = []
    config = UpdateConfig(
        model=str(begun / "split"),
        data=UpdateData(new=str(new)),
        from_feedback=str(begun / "split-feedback"),
        out=str(begun / "v4"),
        epochs=1,
    )
    update.run(config, lines.append, launcher=launch)
    warned = [line for line in lines if line.startswith("WARNING")]
    assert old and len(warned) == 2
    assert "1 image left out: feedback adds 'tag-05', which is split now" in warned[0]
    assert "none of its parts ('x', 'y'). Send feedback again" in warned[0] and "'old'" in warned[0]
    assert f"{new}: {old} rows left out" in warned[1] and "(now 'x', 'y')" in warned[1]
    said = "\n".join(lines)
    assert f"learns from {60 - old - bare + 2} new images" in said, said
    rows = pq.read_table(begun / "v4" / "feedback.parquet").to_pylist()
    assert {row["image_id"]: row["tags"] for row in rows} == {
        "said": ["tag-06", "x"],
        "neither": ["tag-07"],
    }
    assert read_rules(begun / "v4" / "model").split == {"tag-05": ("x", "y")}

"""``jobs.tags`` as it is typed, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.storage.folder import Folder
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_rules
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.export.export import export_bundle
from jobs.tags import main
from tests.helpers.bundles import write_drel
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import planted_table, write_planted
from tests.helpers.training import small_config

NAMES = ("dog", "dogs", "cat", "a=b", "no", "[x, y]", "crane")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_drel(tmp_path / "model", names=NAMES))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(write_planted(tmp_path / "store" / "a.parquet", 90).parent)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refused(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        main([str(argument) for argument in arguments])
    return str(caught.value)


def test_tags_of_a_model_and_of_a_store(
    model: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(capsys, "--model", model).splitlines()
    assert "7 tags, 7 with images" in shown[0] and shown[1].split() == ["7", "crane"]
    assert run(capsys, "--model", model, "--prefix", "DO").splitlines()[2:] == [
        "        2  dogs",
        "        1  dog",
    ]
    run(capsys, "--data", store, "--json", tmp_path / "tags.json", "--limit", "2")
    said = json.loads((tmp_path / "tags.json").read_text())
    assert said["images"] == 90 and len(said["tags"]) == 2
    every = [tag for row in pq.read_table(store)["tags"].to_pylist() for tag in row]
    for one in said["tags"]:
        assert one["count"] == every.count(one["tag"])


def test_a_reader_that_has_read_enough_is_no_error(model: str) -> None:
    many = Path(model).parent / "many"
    write_drel(many, names=tuple(f"tag number {i}" for i in range(20_000)))
    command = f"{sys.executable} -m jobs.tags --model {many} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "20,000 tags" in done.stdout and not done.stderr


def test_edits_of_a_model_with_names_of_any_kind(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = [
        "--merge",
        "dogs=dog",
        "--remove",
        "no",
        "--remove=[x, y]",
        "--split",
        "crane=bird,machine",
    ]
    dry = run(capsys, "--model", model, *edits, "--dry_run")
    assert "merge dogs (id 1, 2 images) into dog" in dry and "new tag bird (id 7)" in dry
    assert dry.splitlines()[-1].startswith("nothing was written")
    said = run(capsys, "--model", model, *edits, "--out", tmp_path / "versions" / "v2", "--publish")
    assert "(version " in said and (tmp_path / "versions" / "latest").read_text() == "v2\n"
    opened = load_bundle(tmp_path / "versions")
    assert opened.vocabulary.names == (*NAMES, "bird", "machine")
    rules = read_rules(tmp_path / "versions" / "v2" / "model")
    assert rules.aliases == {"dogs": "dog"}
    assert set(rules.blocked) == {"no", "[x, y]", "crane"}
    assert rules.split == {"crane": ("bird", "machine")}


def test_edits_of_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edits.csv"
    file.write_text(
        'edit,tag,to\nmerge,dogs,dog\nrename,a=b,"a, b"\nsplit,crane,bird\nsplit,crane,machine\n'
    )
    run(capsys, "--model", model, "--edits", file, "--out", tmp_path / "new")
    assert load_bundle(tmp_path / "new").vocabulary.names[3] == "a, b"
    for text, says in (
        ("edit,tag\nmerge,dogs\n", "no column 'to'"),
        ("edit,tag,to\nmerge,dogs,dog\njoin,dog,cat\n", "row 3: edit is 'join'"),
        ("edit,tag,to\nremove,dog,cat\n", "row 2: remove needs a tag and nothing else"),
        ("edit,tag,to\nmerge,dog,\n", "row 2: merge needs a tag and what it becomes"),
        ("edit,tag,to\nmerge,dog,cat\nmerge,dog,no\n", "row 3: --merge dog=no: 'dog' is in two"),
        ("edit,tag,to\nmerge,dog,cat\nremove,dog,\n", "row 3: 'dog' is in two edits"),
        ("edit,tag,to\nremove,no,\nmerge,dgo,cat\n", "row 3: --merge dgo=cat: there is no tag"),
        ("edit,tag,to\nmerge,dog,cat\nmerge,cat,dog\n", "row 2: --merge: a circle (dog -> cat"),
        ("edit,tag,to\nremove,no,\nrename,dog,cat\n", "row 3: --rename dog=cat: there is a tag"),
        ("edit,tag,to\nsplit,crane,bird\n", "row 2: --split crane=bird: give two parts or more"),
    ):
        file.write_text(text)
        assert says in refused("--model", model, "--edits", file, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_edits_of_a_store(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pq.read_table(store)["tags"].to_pylist()
    edits = ["--data", store, "--merge", "tag-00=tag-01", "--split", "tag-05=one,other"]
    assert "give --assign a CSV file" in refused(*edits, "--out", tmp_path / "new")
    assign = tmp_path / "assign.csv"
    lines = [
        f"image-{i},{'one' if i % 2 else 'other'}" for i, row in enumerate(rows) if "tag-05" in row
    ]
    assign.write_text("\n".join(["image_id,tag", *lines[:-1]]) + "\n")
    dry = run(capsys, *edits, "--assign", assign, "--dry_run")
    said = run(capsys, *edits, "--assign", assign, "--out", tmp_path / "new")
    assert "1 images keep a tag that is split" in said
    number = next(line for line in said.splitlines() if " other tags" in line).split()[0]
    assert f"{number} of 90 images would have other tags" in dry
    made = pq.read_table(tmp_path / "new" / "a.parquet")["tags"].to_pylist()
    assert number == str(sum(one != other for one, other in zip(rows, made, strict=True)))
    assert not any("tag-00" in row for row in made)
    assert sum("tag-05" in row for row in made) == 1
    assign.write_text(
        "\n".join(["image_id,tag", *lines, "Image-1,one", "b.jpg,one", "b.jpg,other"])
    )
    dry = run(capsys, *edits, "--assign", assign, "--dry_run")
    assert f"{assign}: 2 images that the store does not have: 'Image-1', 'b.jpg'" in dry
    assign.write_text("image_id,tag\nb.jpg,one\n")
    for more in (["--dry_run"], ["--out", tmp_path / "none"]):
        said = refused(*edits, "--assign", assign, *more)
        assert "no image_id of it is in the file of --assign ('b.jpg')" in said
    assert not (tmp_path / "none").exists()
    assign.write_text("image_id,tag\nimage-1,onee\n")
    assert "row 2: 'onee' is no part" in refused(
        *edits, "--assign", assign, "--out", tmp_path / "x"
    )


def test_a_vocabulary_file_is_put_into_a_store_and_a_model(
    store: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = TagRules.parse("aliases: {tag-00: tag-01}\nimplies: {tag-01: thing}\nblocked: [tag-02]")
    file = tmp_path / "vocabulary.yaml"
    file.write_text(rules.to_yaml())
    run(capsys, "--data", store, "--vocabulary", file, "--out", tmp_path / "new")
    before = pq.read_table(store)["tags"].to_pylist()
    after = pq.read_table(tmp_path / "new")["tags"].to_pylist()
    assert [set(row) for row in after] == [set(rules.applied(row)) for row in before]
    file.write_text("aliases: {hound: dog}\n")
    run(capsys, "--model", model, "--vocabulary", file, "--out", tmp_path / "model-2")
    assert read_rules(tmp_path / "model-2" / "model").tag_of("hound") == "dog"
    assert "another spelling" not in run(capsys, "--model", tmp_path / "model-2")
    assert "also hound" in run(capsys, "--model", tmp_path / "model-2", "--prefix", "hou")
    run(capsys, "--model", model, "--merge", "dogs=dog", "--out", tmp_path / "merged")
    back = (
        "--model",
        tmp_path / "merged",
        "--vocabulary",
        file,
        "--out",
        tmp_path / "b",
        "--dry_run",
    )
    assert "answers again" in run(capsys, *back) and "'dogs' (means 'dog')" in run(capsys, *back)


def test_a_file_is_checked(
    store: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vocabulary.yaml"
    file.write_text("aliases: {tag-00: tag-01}\nimplies: {tag-02: tag-03, tag-55: tag-04}\n")
    said = run(capsys, "--data", store, "--check", file)
    rows = pq.read_table(store)["tags"].to_pylist()
    assert f"{sum('tag-00' in row for row in rows):>9,}  tag-00" in said
    lacks = sum("tag-02" in row and "tag-03" not in row for row in rows)
    assert f"{lacks:>9,}  tag-02 -> tag-03" in said
    assert "note: implies: no tags of the vocabulary: 'tag-55'" in said
    file.write_text("implies: {dog: animal, animal: dog}\n")
    assert "implies itself" in refused("--model", model, "--check", file)


def test_suggestions_are_a_file_that_holds(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = planted_table(300)
    more = [
        [*row, "Tag-00"] if "tag-00" in row and i % 2 else row
        for i, row in enumerate(table["tags"].to_pylist())
    ]
    path = tmp_path / "twins.parquet"
    pq.write_table(table.set_column(2, "tags", [more]), path)
    out = tmp_path / "suggested.yaml"
    said = run(capsys, "--data", path, "--suggest", "--out", out)
    assert "1 other spellings" in said and TagRules.load(out).tag_of("Tag-00") == "tag-00"
    assert "it holds" in run(capsys, "--data", path, "--check", out)
    out.write_text("# cut down by hand\n")
    assert "is there already" in refused("--data", path, "--suggest", "--out", out)
    assert out.read_text() == "# cut down by hand\n"


def test_an_edited_model_learns_on_and_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_planted(tmp_path / "train.parquet", 120)
    train.run(small_config(path, tmp_path / "v1", epochs=2), log=lambda line: None, launcher=launch)
    edits = ["--merge", "tag-00=tag-01", "--rename", "tag-02=new", "--split", "tag-03=x,y"]
    run(capsys, "--model", tmp_path / "v1", *edits, "--out", tmp_path / "v2")
    pq.write_table(planted_table(60, first=500, seed=5), tmp_path / "later.parquet")
    config = UpdateConfig(
        model=str(tmp_path / "v2"),
        data=UpdateData(new=str(tmp_path / "later.parquet")),
        out=str(tmp_path / "v3"),
    )
    update.run(config, log=lambda line: None, launcher=launch)
    opened = load_bundle(tmp_path / "v3")
    names = opened.vocabulary.names
    assert (
        names == load_bundle(tmp_path / "v2").vocabulary.names
    )  # tag-02 of the store is `new` here
    assert (
        opened.vocabulary.counts[names.index("new")]
        > load_bundle(tmp_path / "v1").vocabulary.counts[2]
    )
    assert read_rules(tmp_path / "v3" / "model").tag_of("tag-00") == "tag-01"
    export_bundle(tmp_path / "v2" / "model", tmp_path / "exported", "torch")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "M", "--data", "D"], "give one of them"),
        (["--model", "M", "--merge", "a=b"], "give --out a new folder"),
        (["--model", "M", "--merge", "a", "--out", "x"], "give two names, --merge TAG=OTHER"),
        (["--model", "M", "--merge", "dgo=cat", "--out", "x"], "did you mean dog"),
        (["--model", "M", "--rename", "dog=cat", "--out", "x"], "--merge dog=cat"),
        (["--model", "M", "--merge", "dog=cat", "--out", "M"], "--out holds the model itself"),
        (["--model", "M", "--merge", "dog=cat", "--suggest"], "--suggest and edits"),
        (["--model", "M", "--out", "x"], "--out is for"),
        (["--model", "M", "--publish"], "--publish is for"),
        (["--model", "M", "--suggest"], "keeps no training rows"),
        (["--model", "M", "--check", "no.yaml"], "no.yaml"),
        (["--model", "nowhere"], "nowhere"),
        (["--data", "D", "--merge", "tag-99=tag-01", "--out", "x"], "there is no tag 'tag-99'"),
        (["--data", "D", "--merge", "tag-00=tag-01", "--out", "D"], "lies in the store"),
    ],
)  # fmt: skip
def test_what_is_refused_in_one_line(
    arguments: list[str], says: str, model: str, store: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(*({"M": model, "D": store}.get(one, one) for one in arguments))
    assert says in said and "\n" not in said
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.partial").exists()


def test_a_model_and_a_store_on_s3(
    s3: Bucket, model: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Folder(s3.at("m/model")).put_all(Path(model), last="config.json")
    Folder(s3.at("store")).put_all(Path(store), last="a.parquet")
    edits = ["--merge", "tag-00=tag-01", "--remove", "tag-02"]
    run(capsys, "--data", s3.at("store"), *edits, "--out", s3.at("new"))
    run(capsys, "--data", store, *edits, "--out", tmp_path / "new")
    there = Folder(s3.at("new"))
    assert set(there.files()) == {"a.parquet"}
    assert there.read("a.parquet") == (tmp_path / "new" / "a.parquet").read_bytes()
    assert "holds files" in refused("--data", store, *edits, "--out", there.address)
    said = run(capsys, "--model", s3.at("m"), "--merge", "dogs=dog", "--out", s3.at("m2"))
    run(capsys, "--model", model, "--merge", "dogs=dog", "--out", tmp_path / "m2")
    version = load_bundle(tmp_path / "m2").info.version
    assert f"(version {version}" in said
    assert f"(version {version})" in run(capsys, "--model", s3.at("m2"))

"""Text vectors of tags' names in a run: looked up once, folded into the table, kept in the bundle."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

import jobs.train
from distributed.driver import dry_run, tag_text, train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.storage.folder import Folder
from distributed.training.config import TagsConfig, TrainConfig
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_info
from drel_core.bundle.text_vectors import TAG_TEXT, TagText
from drel_core.errors import InputError
from tests.helpers.commands import SMALL
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import planted_table, write_planted
from tests.helpers.training import small_config

TABLE = "tag_embedding-00000-of-00001.safetensors"
TAGS = 12  # of a planted store, tag-00 to tag-11


def write_vectors(path: Path, tags: int = TAGS - 2, seed: int = 0, dim: int = 5) -> Path:
    """Vectors of all planted tags but the last ones."""
    vectors = torch.randn(tags, dim, generator=torch.Generator().manual_seed(seed)).tolist()
    pq.write_table(
        pa.table({"name": [f"tag-{t:02d}" for t in range(tags)], "vector": vectors}), path
    )
    return path


def config_in(folder: Path, text: Path | str, **options: Any) -> TrainConfig:
    store = folder / "store.parquet"
    if not store.exists():
        write_planted(store, 120)
    config = small_config(store, folder / "out", epochs=2)
    return replace(config, tags=TagsConfig(text=str(text)), **options)


def run(config: TrainConfig) -> list[str]:
    lines = list[str]()
    train.run(config, lines.append, launcher=launch)
    return lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, list[str]]:
    folder = tmp_path_factory.mktemp("named")
    config = config_in(folder, write_vectors(folder / "vectors.parquet"))
    return config, run(config)


def test_a_bundle_keeps_the_vectors_and_says_where_they_come_from(
    trained: tuple[TrainConfig, list[str]],
) -> None:
    config, lines = trained
    source, model = config.tags.text, Path(config.out) / "model"
    said = f"names of tags: {source} has a vector for 10 of 12 (83%); not for tag-10, tag-11"
    assert said in lines
    info = read_info(model)
    assert info.content["text"] == {"source": source, "dim": 5, "tags": 10}
    assert info.config is not None and info.config["tags"]["text"] == source
    text = TagText.load(model, TAGS)
    assert text is not None and text.has_T.tolist() == [True] * 10 + [False] * 2


def test_the_table_holds_whole_embeddings_and_no_reader_needs_names(
    trained: tuple[TrainConfig, list[str]], tmp_path: Path
) -> None:
    config, _ = trained
    model = Path(config.out) / "model"
    plain = replace(config, tags=TagsConfig(text="none"), out=str(tmp_path / "plain"))
    run(plain)
    other = Path(plain.out) / "model"
    assert set(load_file(model / "model.safetensors")) == set(
        load_file(other / "model.safetensors")
    )
    named_TE, plain_TE = (load_file(at / TABLE)["weight"] for at in (model, other))
    assert named_TE.shape == plain_TE.shape and not torch.allclose(named_TE, plain_TE, atol=0.1)
    assert not (other / TAG_TEXT).exists() and "text" not in read_info(other).content
    features = torch.randn(4, 16)
    before = load_bundle(model).annotate(features)
    (model / TAG_TEXT).rename(tmp_path / TAG_TEXT)
    after = load_bundle(model).annotate(features)
    (tmp_path / TAG_TEXT).rename(model / TAG_TEXT)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_a_finished_run_is_known_again_and_other_vectors_are_refused(
    trained: tuple[TrainConfig, list[str]],
) -> None:
    config, _ = trained
    source = Path(config.tags.text)
    assert run(config)[-1].endswith("is trained already; scoring it")
    before, written = source.read_bytes(), source.stat()
    write_vectors(source, seed=1)
    with pytest.raises(InputError, match=r"trained with another tags\.vectors \("):
        run(config)
    source.write_bytes(before)
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns))
    with pytest.raises(InputError, match=r"trained with another tags\.text, tags\.vectors \("):
        run(replace(config, tags=TagsConfig(text="none")))
    assert run(config)[-1].endswith("is trained already; scoring it")


def test_vectors_are_looked_up_once(
    trained: tuple[TrainConfig, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lines = trained

    def never(*_: object) -> None:
        raise AssertionError("looked up again")

    monkeypatch.setattr(tag_text, "look_up", never)
    again = run(config)
    assert [line for line in again if line.startswith("names of tags")] == [
        line for line in lines if line.startswith("names of tags")
    ]


def test_a_dry_run_says_what_the_run_says(
    trained: tuple[TrainConfig, list[str]], tmp_path: Path
) -> None:
    config, lines = trained
    said = list[str]()
    dry_run.dry_run(replace(config, out=str(tmp_path / "new")), said.append)
    assert next(line for line in lines if line.startswith("names of tags")) in said
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is no such file or folder"):
        dry_run.dry_run(replace(config, tags=TagsConfig(text="./no.parquet")), said.append)


def test_a_source_that_cannot_be_used_ends_the_run_before_it_writes(tmp_path: Path) -> None:
    config = config_in(tmp_path, "glvoe")
    with pytest.raises(InputError, match=r"'glvoe' are unknown; did you mean glove\?"):
        run(config)
    assert not list((tmp_path / "out").glob("*"))


def test_a_source_that_knows_no_name_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"name": ["something else"], "vector": [[1.0]]}), path)
    config = config_in(tmp_path, path)
    assert f"names of tags: {path} has a vector for none of them, so they are left out" in run(
        config
    )
    assert "text" not in read_info(Path(config.out) / "model").content


def test_other_methods_do_not_look_at_names(tmp_path: Path) -> None:
    config = config_in(tmp_path, "glvoe", method="popularity")
    assert not any("names of tags" in line for line in run(config))


@pytest.mark.parametrize(
    ("begun_with", "installed", "source"),
    [
        (None, True, "glove"),
        (None, False, "none"),
        ("none", True, "none"),
        ("glove", False, "glove"),
    ],
)
def test_auto_is_what_the_run_was_begun_with_else_what_is_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun_with: str | None,
    installed: bool,
    source: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    config = config_in(tmp_path, "auto")
    assert tag_text.settled_source(config, begun_with) == source


def test_notes_of_before_names_were_looked_at_say_none(tmp_path: Path) -> None:
    out = Folder.of(tmp_path)
    assert train.begun_text(out) is None
    (tmp_path / "fingerprint.json").write_text(json.dumps({"seed": 0}))
    assert train.begun_text(out) == "none"


def updated(config: TrainConfig, out: Path, rows: Path) -> tuple[list[str], TagText]:
    lines = list[str]()
    asked = UpdateConfig(
        model=config.out, out=str(out), data=UpdateData(new=str(rows), watch=0), epochs=1
    )
    update.run(asked, log=lines.append, launcher=launch)
    info = read_info(out / "model")
    text = TagText.load(out / "model", info.num_tags)
    assert text is not None and info.content["text"]["source"] == config.tags.text
    assert info.content["text"]["tags"] == int(text.has_T.sum())
    return lines, text


def test_an_update_adds_the_vectors_of_new_tags(
    trained: tuple[TrainConfig, list[str]], tmp_path: Path
) -> None:
    config, _ = trained
    rows, source = tmp_path / "new.parquet", Path(config.tags.text)
    table = planted_table(40, first=1000)
    tags = [
        [*tags, "new one" if i % 2 else "new two"]
        for i, tags in enumerate(table["tags"].to_pylist())
    ]
    pq.write_table(table.set_column(2, "tags", pa.array(tags)), rows)
    before = TagText.load(Path(config.out) / "model", TAGS)
    assert before is not None
    held, vectors = source.read_bytes(), pq.read_table(source)
    extended = pa.table({"name": ["new one"], "vector": [[1.0, 0.0, 0.0, 0.0, 0.0]]})
    try:
        pq.write_table(pa.concat_tables([vectors, extended.cast(vectors.schema)]), source)
        lines, text = updated(config, tmp_path / "v1", rows)
        assert torch.equal(text.vector_Td[:TAGS], before.vector_Td)
        assert torch.equal(text.mean_d, before.mean_d)
        assert text.vector_Td[TAGS:].tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
        assert not any("WARNING: new tags" in line for line in lines)
        source.unlink()
        lines, text = updated(config, tmp_path / "v2", rows)
        assert any("WARNING: new tags have no text vectors: " in line for line in lines)
        assert torch.equal(text.vector_Td[:TAGS], before.vector_Td)
        assert not text.vector_Td[TAGS:].any()
    finally:
        source.write_bytes(held)


def test_source_and_run_may_lie_on_s3(s3: Bucket, tmp_path: Path) -> None:
    vectors = pq.read_table(write_vectors(tmp_path / "v.parquet"))
    np.save(tmp_path / "v.npy", np.array(vectors["vector"].to_pylist()))
    (tmp_path / "v.txt").write_text("\n".join(vectors["name"].to_pylist()))
    bucket = Folder.of(s3.at("vectors"))
    for name in ("v.npy", "v.txt"):
        bucket.put(name, tmp_path / name)
    here = config_in(tmp_path, tmp_path / "v.npy")
    there = config_in(tmp_path, bucket.file("v.npy"), out=s3.at("out"))
    for config in (here, there):
        assert any("has a vector for 10 of 12" in line for line in run(config))
        assert run(config)[-1].endswith("is trained already; scoring it")
    (tmp_path / "copy").mkdir()
    for name in (TAG_TEXT, TABLE):
        Folder.of(there.out).fetch(f"model/{name}", tmp_path / "copy")
        ours, theirs = (
            load_file(at / "model" / name) for at in (Path(here.out), tmp_path / "copy")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(InputError, match="no such file or folder"):
        run(replace(there, tags=TagsConfig(text=bucket.file("w.npy")), out=str(tmp_path / "new")))


def test_what_is_said_in_config_yaml_is_the_source_that_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planted(tmp_path / "store.parquet", 120)
    write_vectors(tmp_path / "v.parquet")
    monkeypatch.chdir(tmp_path)
    files = ["--data.train", "store.parquet", "--epochs", "1", "--decision.held_out", "0", *SMALL]
    jobs.train.main([*files, "--out", "named", "--tags.text", "./v.parquet"], launch)
    jobs.train.main([*files, "--out", "plain"], launch)
    said = [
        yaml.safe_load((tmp_path / out / "config.yaml").read_text())["tags"]["text"]
        for out in ("named", "plain")
    ]
    assert said == [str(tmp_path / "v.parquet"), "none"]

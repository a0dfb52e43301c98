"""Tags that come by name alone, and the images that come later."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles.edit import BundleEdits, edit_bundle
from distributed.bundles.locate import find_bundle
from distributed.bundles.table_parts import TableParts
from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.rows import Rows
from distributed.data.survey import survey_store
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.new_names import read_names
from distributed.driver.new_tags import StartBy, init_new_tags
from distributed.driver.update_config import UpdateConfig, UpdateData, UpdateTags
from distributed.storage.folder import Folder
from distributed.training.config import TrainConfig, with_option
from distributed.training.warm_start import NEW_ROWS, ParentBundle
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tag_edits import TagEdits
from drel_core.errors import InputError
from drel_core.export.export import export_bundle
from drel_core.model.towers import ModelConfig, init_embedding_rows
from drel_core.text.vectors import open_text_vectors
from tests.helpers.named_store import TAGS, TEXT, NamedStore, write_named
from tests.helpers.training import small_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NamedStore]:
    """A model with a kernel and probabilities, and the store that it comes from."""
    folder = tmp_path_factory.mktemp("named")
    store = write_named(folder / "store")
    config: TrainConfig = small_config(store.train, folder / "v0", epochs=8)
    config = with_option(config, "kernel.landmarks", 100)
    config = with_option(config, "kernel.least_gain", 0.0)
    config = replace(
        config, model=replace(config.model, tag_tower="none", metric="none", tag_bias=False)
    )
    train.run(config, log=lambda line: None, launcher=launch)
    (folder / "new.txt").write_text("".join(f"{name}\n" for name in store.unseen))
    return folder, store


def updated(folder: Path, out: Path | str, **options: Any) -> list[str]:
    lines: list[str] = []
    config = UpdateConfig(model=str(folder / "v0"), out=str(out), epochs=2, **options)
    update.run(config, lines.append, launcher=launch)
    return lines


def names_of(folder: Path, store: NamedStore) -> UpdateTags:
    return UpdateTags(new=str(folder / "new.txt"), text=str(store.vectors))


def rows_of(path: Path, model: Path) -> tuple[Rows, DRELAnnotator]:
    annotator = load_bundle(model)
    assert isinstance(annotator, DRELAnnotator)
    store = FeatureStore.open(str(path))
    names = pa.array(annotator.vocabulary.names)
    return load_rows(
        survey_store(store, "fail", statistics=False).train, store.columns, names
    ), annotator


def test_a_file_of_names_makes_a_model_that_finds_them(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    folder, store = trained
    said = updated(folder, tmp_path / "v1", tags=names_of(folder, store))
    assert any("gets 4 tags by name alone" in line for line in said)
    rows, after = rows_of(store.test, tmp_path / "v1" / "model")
    _, before = rows_of(store.test, folder / "v0" / "model")
    known = len(before.vocabulary)
    assert after.vocabulary.names[known:] == store.unseen
    assert after.vocabulary.counts[known:].tolist() == [0] * 4
    score_NT, hit_NT = after.scores(rows.features_BD), rows.tags.mask(known + 4)
    # What orders the others is what it was; the level of an image may move a little.
    assert torch.equal(after.tag_TL[:known], before.tag_TL)
    assert torch.equal(after.bias_T[:known], before.bias_T)
    top = before.annotate(rows.features_BD, 1)[1]
    assert float((after.annotate(rows.features_BD, 1)[1] == top).float().mean()) > 0.8
    for tag in range(known, known + 4):
        order = score_NT[:, tag].argsort(descending=True)
        hits = hit_NT[order, tag].double()
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        found, chance = float((precision * hits).sum() / hits.sum()), float(hits.mean())
        assert found > 5 * chance, (found, chance)
    assert 0.2 < float(score_NT[:, known:].sum() / hit_NT[:, known:].sum()) < 5

    info, older = read_info(tmp_path / "v1" / "model"), read_info(folder / "v0" / "model")
    assert info.parent == older.version != info.version and info.images == older.images
    assert info.content["new_tags"] == 4 and info.content["text"]["source"] == str(store.vectors)
    card = (tmp_path / "v1" / "model" / "README.md").read_text()
    assert "| tags without any image, by name alone | 4 |" in card
    again = updated(folder, tmp_path / "v1", tags=names_of(folder, store))
    assert any("is there already" in line for line in again)


def test_images_go_on_from_the_name(trained: tuple[Path, NamedStore], tmp_path: Path) -> None:
    """Names in one update, images of two of them in the next: these count, the others stay unseen."""
    folder, store = trained
    updated(folder, tmp_path / "v1", tags=names_of(folder, store))
    later = pq.read_table(store.later)
    wanted = set(store.unseen[:2])
    has = [bool(wanted & set(tags)) for tags in later.column("tags").to_pylist()]
    pq.write_table(later.filter(pa.array(has)), tmp_path / "some.parquet")
    lines: list[str] = []
    config = UpdateConfig(
        model=str(tmp_path / "v1"),
        out=str(tmp_path / "v2"),
        data=UpdateData(new=str(tmp_path / "some.parquet")),
        epochs=2,
    )
    update.run(config, lines.append, launcher=launch)
    rows, after = rows_of(store.test, tmp_path / "v2" / "model")
    _, before = rows_of(store.test, tmp_path / "v1" / "model")
    assert after.vocabulary.names == before.vocabulary.names
    count = dict(zip(after.vocabulary.names, after.vocabulary.counts.tolist(), strict=True))
    assert min(count[name] for name in store.unseen[:2]) > 20
    assert [count[name] for name in store.unseen[2:]] == [0, 0]
    # The kernel stays silent on tags that have no image yet.
    decider = after.decider
    assert decider is not None and decider.calibration.slope_T is not None
    kernel = after._adjustment.kernel
    assert kernel is not None
    assert kernel.silent_T.tolist() == [False] * (len(count) - 2) + [True, True]
    some = load_bundle(tmp_path / "v2" / "model").scores(rows.features_BD)[:, -2:]
    assert 0 < float(some.max()) < 1
    hit = rows.tags.mask(len(count))[:, -4:-2]
    mine = after.scores(rows.features_BD)[:, -4:-2]
    assert float(mine[hit].mean()) > 5 * float(mine[~hit].mean())


def test_names_and_images_in_one_update(trained: tuple[Path, NamedStore], tmp_path: Path) -> None:
    folder, store = trained
    data = UpdateData(new=str(store.later))
    updated(folder, tmp_path / "v1", tags=names_of(folder, store), data=data)
    info = read_info(tmp_path / "v1" / "model")
    assert info.parent == read_info(folder / "v0" / "model").version
    assert min(read_vocabulary(tmp_path / "v1" / "model").counts[-4:]) > 20
    updated(folder, tmp_path / "v1", tags=names_of(folder, store), data=data)  # there already


def test_names_on_s3(trained: tuple[Path, NamedStore], tmp_path: Path, s3: Any) -> None:
    folder, store = trained
    local = names_of(folder, store)
    at = Folder.of(f"s3://{s3.name}/run")
    at.write("new.txt", (folder / "new.txt").read_bytes())
    said = updated(folder, (at / "v1").address, tags=replace(local, new=at.file("new.txt")))
    assert any("gets 4 tags" in line for line in said)
    updated(folder, tmp_path / "v1", tags=local)
    version = read_info(tmp_path / "v1" / "model").version
    assert find_bundle((at / "v1").address)[1] == version


def test_what_is_left_of_a_file_is_said(trained: tuple[Path, NamedStore], tmp_path: Path) -> None:
    folder, store = trained
    names = tmp_path / "names.txt"
    known = read_vocabulary(folder / "v0" / "model").names[0]
    names.write_text(f"{known}\n\n  {store.unseen[0]} \nno such word\n{store.unseen[0]}\n")
    tags = UpdateTags(new=str(names), text=str(store.vectors))
    with pytest.raises(
        InputError, match=r"1 name without a text vector .*'no such word'.*tags.skip"
    ):
        updated(folder, tmp_path / "v1", tags=tags)
    assert not (tmp_path / "v1" / "model").exists()
    said = updated(folder, tmp_path / "v1", tags=replace(tags, skip=True))
    assert any("1 name of 3 the model has as tags already" in line for line in said)
    assert read_vocabulary(tmp_path / "v1" / "model").names[-1] == store.unseen[0]
    names.write_text(f"{known}\n")
    with pytest.raises(InputError, match="no name is left to add"):
        updated(folder, tmp_path / "v2", tags=tags)


def test_a_model_without_text_vectors_asks_for_a_source(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    folder, _ = trained
    with pytest.raises(InputError, match=r"keeps no text vectors .*--tags.text glove"):
        updated(folder, tmp_path / "v1", tags=UpdateTags(new=str(folder / "new.txt")))


def test_a_model_without_rows_cannot_learn_probabilities(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    folder, store = trained
    shutil.copytree(folder / "v0" / "model", tmp_path / "v0" / "model")
    (tmp_path / "v0" / "model" / "reservoir.parquet").unlink()
    with pytest.raises(InputError, match="keeps 0 training rows; 20 are needed"):
        updated(tmp_path, tmp_path / "v1", tags=names_of(folder, store))
    assert not list((tmp_path / "v1").glob("*model*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no tag in it"),
        (b"\n \n", "no tag in it"),
        (b"sky\nse\xffa\n", "line 2 is not UTF-8"),
        (b"x" * 1001, "line 1 has 1001 characters"),
    ],
)
def test_files_that_are_no_lists_of_names(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_names(str(tmp_path / "names.txt"))


def test_names_as_people_write_them(tmp_path: Path) -> None:
    text = "\ufeff# what people asked for\r\nblue sky\r\n#sunset\r\n#\r\n  # a\r\n##\r\nn#1\r\n"
    text += "  sea\u00a0\ncafe\u0301\nsea\n<b>x</b>\n"
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    expected = ["blue sky", "#sunset", "##", "n#1", "sea", "caf\u00e9", "<b>x</b>"]
    assert read_names(str(tmp_path / "names.txt")) == expected
    with pytest.raises(InputError, match="names no file"):
        read_names(str(tmp_path / "other.txt"))
    with pytest.raises(InputError, match=r"cannot be read|names no file"):
        read_names(str(tmp_path))


def test_a_source_that_gives_other_vectors_now_is_not_believed(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """Beside the vectors that the model keeps they would put names anywhere."""
    folder, store = trained
    vectors, names = tmp_path / "vectors.parquet", tmp_path / "names.txt"
    shutil.copy(store.vectors, vectors)
    names.write_text(f"{store.unseen[0]}\n")
    updated(folder, tmp_path / "v0", tags=UpdateTags(new=str(names), text=str(vectors)))
    table = pq.read_table(vectors)
    other = np.random.default_rng(1).normal(size=(len(table), TEXT)).astype(np.float32)
    column = pa.array(list(other), pa.list_(pa.float32()))
    pq.write_table(table.set_column(1, "vector", column), vectors)
    names.write_text(f"{store.unseen[1]}\n")
    for text in ("", str(vectors)):
        with pytest.raises(InputError, match="gives other vectors than those that the model keeps"):
            updated(tmp_path, tmp_path / "v1", tags=UpdateTags(new=str(names), text=text))
    said = updated(tmp_path, tmp_path / "v2", data=UpdateData(new=str(store.later)))
    assert any("new tags have no text vectors" in line and "other vectors" in line for line in said)
    # New names alone are no other vectors.
    pq.write_table(pq.read_table(store.vectors).slice(TAGS - 4), vectors)
    updated(tmp_path, tmp_path / "v3", tags=UpdateTags(new=str(names)))


def test_the_rules_of_a_model_hold_for_names(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """Another spelling is its tag, and a blocked name is none."""
    folder, store = trained
    shutil.copytree(folder / "v0" / "model", tmp_path / "v0" / "model")
    first, second, third = store.unseen[:3]
    known = read_vocabulary(folder / "v0" / "model").names[0]
    (tmp_path / "v0" / "model" / "vocabulary.yaml").write_text(
        f"aliases:\n  spelling: {first}\n  other: {known}\nblocked: [{second}]\n"
    )
    names = tmp_path / "names.txt"
    names.write_text(f"spelling\nother\n{second}\n{third}\n")
    said = updated(
        tmp_path, tmp_path / "v1", tags=UpdateTags(new=str(names), text=str(store.vectors))
    )
    assert any(f"since the model's rules block them: {second!r}" in line for line in said)
    after = read_vocabulary(tmp_path / "v1" / "model").names
    assert after[-2:] == (first, third)
    assert (tmp_path / "v1" / "model" / "vocabulary.yaml").exists()


def test_a_new_name_has_its_own_vector_and_without_images_its_own_row(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    folder, store = trained
    vectors, table = tmp_path / "vectors.parquet", pq.read_table(store.vectors)
    random = np.random.default_rng(3).normal(size=(3, TEXT)).astype(np.float32)
    new = {"name": ["new name", "seen name", "a part"], "vector": list(random)}
    pq.write_table(pa.concat_tables([table, pa.table(new, schema=table.schema)]), vectors)
    tags = UpdateTags(new=str(folder / "new.txt"), text=str(vectors))
    updated(folder, tmp_path / "v1", tags=tags)
    parent = tmp_path / "v1" / "model"
    names = read_vocabulary(parent).names

    def edited(out: str, **edits: Any) -> tuple[torch.Tensor, torch.Tensor, str]:
        lines: list[str] = []
        made = BundleEdits.of(str(parent), TagEdits(**edits))
        edit_bundle(made, Folder(str(tmp_path / out)), lines.append)
        model = tmp_path / out / "model"
        info, known = read_info(model), len(read_vocabulary(model))
        assert info.content["text"]["tags"] == known
        rows = TableParts.of(model, info).rows(torch.arange(known))[0]
        return (
            load_tensors(model / "tag_text.safetensors")["vector"].float(),
            rows,
            "\n".join(lines),
        )

    seen, unseen, other, split = 0, len(names) - 1, 1, 2
    edits = {
        "rename": {names[seen]: "seen name", names[unseen]: "new name", names[other]: "unheard of"},
        "split": {names[split]: ("a part", "another part")},
    }
    before_Td, before_TE, _ = edited("same", remove=(names[5],))
    vector_Td, row_TE, said = edited("v2", **edits)
    wanted_nd = torch.nn.functional.normalize(torch.from_numpy(random), dim=1)
    torch.testing.assert_close(
        vector_Td[[unseen, seen, len(names)]], wanted_nd, atol=1e-3, rtol=1e-2
    )
    torch.testing.assert_close(vector_Td[[other, len(names) + 1]], before_Td[[other, split]])
    assert "'unheard of', 'another part': no text vector" in said
    # What images taught stays; what the name alone gave is given anew.
    torch.testing.assert_close(row_TE[: unseen - 1], before_TE[: unseen - 1])
    assert float((row_TE[unseen] - before_TE[unseen]).abs().max()) > 0.05
    (tmp_path / "again.txt").write_text("new name\n")
    add = UpdateTags(new=str(tmp_path / "again.txt"), text=str(vectors))
    updated(folder, tmp_path / "added", tags=add)
    added = tmp_path / "added" / "model"
    by_name = TableParts.of(added, read_info(added)).rows(torch.tensor([unseen - 3]))[0][0]
    torch.testing.assert_close(row_TE[unseen], by_name, atol=1e-3, rtol=1e-2)
    vectors.unlink()
    vector_Td, row_TE, said = edited("v3", **edits)
    assert "the text vectors of the old names stay (" in said
    torch.testing.assert_close(vector_Td[: len(names)], before_Td)
    torch.testing.assert_close(row_TE[: len(names)], before_TE)


def test_new_tags_of_images_start_where_their_names_say(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """Their first rows are random ones and what the map expects, and the bundle keeps the text vectors of
    all tags."""
    folder, store = trained
    tags = UpdateTags(text=str(store.vectors))
    updated(folder, tmp_path / "v1", data=UpdateData(new=str(store.later)), tags=tags, start="text")
    updated(folder, tmp_path / "v2", tags=names_of(folder, store))
    first_nE = load_tensors(tmp_path / "v1" / NEW_ROWS)["weight"]
    names = read_vocabulary(tmp_path / "v1" / "model").names[-4:]
    info = read_info(tmp_path / "v2" / "model")
    table = TableParts.of(tmp_path / "v2" / "model", info)
    by_name_nE = table.rows(torch.arange(TAGS - 4, TAGS))[0]
    order = [names.index(name) for name in store.unseen]
    sizes = dict(info.content["model"])
    sizes.pop("image_dim")
    random_nE = init_embedding_rows(torch.arange(TAGS - 4, TAGS), ModelConfig(**sizes), seed=0)
    said_nE = (first_nE - random_nE)[order]
    assert float(torch.cosine_similarity(said_nE, by_name_nE).min()) > 0.99  # float16
    assert bool((said_nE.norm(dim=1) < by_name_nE.norm(dim=1)).all())
    text = read_info(tmp_path / "v1" / "model").content["text"]
    assert text["source"] == str(store.vectors) and text["tags"] == TAGS
    updated(folder, tmp_path / "v3", data=UpdateData(new=str(store.later)))
    assert "text" not in read_info(tmp_path / "v3" / "model").content
    assert float((load_tensors(tmp_path / "v3" / NEW_ROWS)["weight"] - first_nE).abs().max()) > 0.1


def test_a_tag_of_many_images_starts_at_random(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """Those of fewer start at their names."""
    folder, store = trained
    bundle = folder / "v0" / "model"
    info, names = read_info(bundle), read_vocabulary(bundle).names
    parts = int(info.content["table_parts"])
    parent = ParentBundle(str(bundle), info.version, info.num_tags, parts, str(tmp_path), 0)
    towers = {key: value for key, value in info.content["model"].items() if key != "image_dim"}
    every, model = pa.array([*names, *store.unseen]), ModelConfig(**towers)
    vector_nd = open_text_vectors(str(store.vectors)).vectors(store.unseen)[0]
    count_T = np.full(TAGS, 9)
    count_T[-1] = 10

    def rows(few: int | None) -> torch.Tensor:
        start = StartBy("text", few, str(store.vectors), vector_nd)
        init_new_tags(parent, every, count_T, [], Columns(), model, start, seed=0)
        return load_tensors(tmp_path / NEW_ROWS)["weight"]

    named_nE, found_nE = rows(None), rows(10)
    random_nE = init_embedding_rows(torch.arange(info.num_tags, TAGS), model, 0)
    assert torch.equal(found_nE[:-1], named_nE[:-1]) and torch.equal(found_nE[-1], random_nE[-1])
    assert float((named_nE[-1] - random_nE[-1]).abs().max()) > 0.1


def test_an_export_says_the_same_of_tags_by_name(
    trained: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """With a kernel, which has no evidence of them, and slopes of their own."""
    folder, store = trained
    updated(folder, tmp_path / "v1", tags=names_of(folder, store))
    described = export_bundle(tmp_path / "v1" / "model", tmp_path / "export", "torch")
    assert described["unseen"] == 4
    assert "4 have none: known by name alone" in (tmp_path / "export" / "README.md").read_text()
    rows, annotator = rows_of(store.test, tmp_path / "v1" / "model")
    features_BD = rows.features_BD[:20]
    path = tmp_path / "export" / "examples" / "annotate.py"
    name_Bk, score_Bk = runpy.run_path(str(path))["annotate"](features_BD.numpy(), TAGS)
    score_BT, tag_BT = annotator.annotate(features_BD, TAGS)
    names = annotator.vocabulary.names
    for row, (score_T, tag_T) in enumerate(zip(score_BT.tolist(), tag_BT.tolist(), strict=True)):
        mine = {names[tag]: score for tag, score in zip(tag_T, score_T, strict=True)}
        found = dict(zip(name_Bk[row].tolist(), score_Bk[row].tolist(), strict=True))
        assert found == pytest.approx(mine, abs=1e-4)

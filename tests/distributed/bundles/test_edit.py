"""A model whose tags are edited: nothing that was learned changes, and the model before stays as it is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles import edit as module
from distributed.bundles.edit import BundleEdits, edit_bundle
from distributed.bundles.locate import find_bundle
from distributed.data.replay_buffer import RESERVOIR, write_kept_rows
from distributed.storage.folder import Folder
from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import content_version, read_info, read_rules
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tag_edits import TagEdits
from drel_core.bundle.tag_rules import TagRules
from drel_core.bundle.tensor_files import save_tensors
from drel_core.bundle.text_vectors import TAG_TEXT, TagText
from drel_core.decision.kernel import KernelHead
from drel_core.errors import InputError
from drel_core.images.backbone import TRUSTED
from drel_core.model.towers import ModelConfig
from tests.helpers.bundles import random_decider, write_drel

ROOT = Path(__file__).resolve().parents[3]
OLD_BUNDLES = sorted(place.name for place in (ROOT / "tests" / "data").glob("bundle-*"))
TAGS, DIM = 12, 8
SHAPE = ModelConfig(
    image_hidden=16,
    tag_dim=6,
    tag_hidden=7,
    latent=5,
    activation="gelu",
    latent_activation=False,
    linear_path=True,
    tag_bias=True,
    tag_prior=0.5,
    normalise=True,
    scale=5.0,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model with decisions, a kernel and kept rows; tag-NN is on NN + 1 images."""
    folder = write_drel(
        tmp_path / "old" / "model", DIM, TAGS, decider=random_decider(TAGS), shape=SHAPE
    )
    torch.manual_seed(1)
    one = torch.ones
    parts = (torch.randn(4, DIM), one(1), 0.1 * torch.rand(4, TAGS), torch.rand(TAGS) / 9)
    KernelHead(*parts, floor=0.01 * one(1), factor=one(1), noise=torch.rand(TAGS)).save(
        folder / "kernel.safetensors"
    )
    TagText.of(torch.eye(TAGS)).save(folder / TAG_TEXT)
    tags = [["tag-01", "tag-02"], ["tag-03"], ["tag-04", "tag-05"], []]
    rows = {
        "image_id": ["a", "b", "c", "d"],
        "features": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 4 * DIM, pa.float32()), DIM),
        "tags": pa.array(tags, pa.list_(pa.string())),
    }
    write_kept_rows(pa.table(rows), folder / RESERVOIR)
    return folder


def made(bundle: Path, out: Path, rules: TagRules | None = None, **edits: Any) -> DRELAnnotator:
    edit_bundle(BundleEdits.of(str(bundle), TagEdits(**edits), rules), Folder(str(out)), print)
    loaded = load_bundle(out)
    assert isinstance(loaded, DRELAnnotator)
    return loaded


def scores(annotator: Any) -> torch.Tensor:
    features_BD = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))
    result: torch.Tensor = annotator.scores(features_BD)
    return result


def test_merging_renaming_and_removing_change_names_alone(bundle: Path, tmp_path: Path) -> None:
    before, version = load_bundle(bundle), content_version(bundle)
    edits = {"merge": {"tag-01": "tag-02"}, "rename": {"tag-03": "new name"}, "remove": ("tag-04",)}
    after = made(bundle, tmp_path / "new", **edits)
    torch.testing.assert_close(scores(after), scores(before), rtol=0, atol=0)
    assert after.vocabulary.names[3] == "new name" and len(after.vocabulary) == TAGS
    assert after.vocabulary.counts.tolist() == before.vocabulary.counts.tolist()
    rules = read_rules(tmp_path / "new" / "model")
    assert rules.aliases == {"tag-01": "tag-02", "tag-03": "new name"} and rules.blocked == (
        "tag-04",
    )
    assert content_version(bundle) == version and after.info.parent == before.info.version
    assert after.info.version == content_version(tmp_path / "new" / "model")
    assert after.info.trained_at == before.info.trained_at
    kept = pq.read_table(tmp_path / "new" / "model" / RESERVOIR)
    assert kept["tags"].to_pylist() == [["tag-02"], ["new name"], ["tag-05"], []]
    card = (tmp_path / "new" / "model" / "README.md").read_text()
    assert "whose tags were edited: 1 merged, 1 renamed, 1 removed; nothing was learned" in card


def test_a_merged_or_removed_tag_is_never_an_answer(bundle: Path, tmp_path: Path) -> None:
    after = made(bundle, tmp_path / "new", merge={"tag-01": "tag-02"}, remove=("tag-04",))
    features_BD = torch.randn(40, DIM, generator=torch.Generator().manual_seed(3))
    before = load_bundle(bundle)
    for how in ("top", "macro"):
        said = [
            set(choose(one, features_BD, TAGS, decision_of(one, how)).ids.flatten().tolist())
            for one in (before, after)
        ]
        assert {1, 4} <= said[0] and not {1, 4} & said[1] and 2 in said[1]


def test_parts_start_as_the_tag_that_was_split(bundle: Path, tmp_path: Path) -> None:
    about = json.loads((bundle / "config.json").read_text())
    about["text"] = {"source": "words.npy", "dim": TAGS, "tags": TAGS}
    (bundle / "config.json").write_text(json.dumps(about))
    before = load_bundle(bundle)
    assert isinstance(before, DRELAnnotator)
    after = made(
        bundle, tmp_path / "new", split={"tag-05": ("x", "y", "z"), "tag-09": ("tag-09", "w")}
    )
    assert after.vocabulary.names[TAGS:] == ("x", "y", "z", "w")
    assert after.vocabulary.counts[TAGS:].tolist() == [2, 2, 2, 5]  # of 6 and of 10 images
    assert after.vocabulary.counts[[5, 9]].tolist() == [6, 5]
    torch.testing.assert_close(after.tag_TL[TAGS:], after.tag_TL[[5, 5, 5, 9]])
    # The n-th part as probable as the whole was, whatever their prior is now.
    odds = after.bias_T[TAGS:] - before.bias_T[[5, 5, 5, 9]]
    torch.testing.assert_close(odds, -torch.tensor([3.0, 3.0, 3.0, 2.0]).log())
    assert float(after.bias_T[9] - before.bias_T[9]) == pytest.approx(-math.log(2), abs=1e-5)
    others = [tag for tag in range(TAGS) if tag not in (9,)]
    torch.testing.assert_close(after.bias_T[others], before.bias_T[others])
    folder = tmp_path / "new" / "model"
    kernel = KernelHead.load(folder, DIM, TAGS + 4)
    assert kernel is not None and torch.equal(kernel.weight_RT[:, TAGS], kernel.weight_RT[:, 5])
    assert kernel.noise is not None
    assert torch.equal(kernel.noise[TAGS:], kernel.noise[[5, 5, 5, 9]])
    text = TagText.load(folder, TAGS + 4)
    assert text is not None and torch.equal(text.vector_Td[TAGS], text.vector_Td[5])
    assert after.info.content["text"] == {"source": "words.npy", "dim": TAGS, "tags": TAGS + 4}
    assert read_rules(folder).blocked == ("tag-05",)
    # A tag is split again, and the parts of the table stay in order.
    again = made(tmp_path / "new", tmp_path / "newer", split={"x": ("x1", "x2")})
    assert again.vocabulary.names[-2:] == ("x1", "x2")
    torch.testing.assert_close(again.tag_TL[-1], after.tag_TL[TAGS])


def test_a_tag_of_a_model_with_one_noise_for_all_is_split(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "kernel.safetensors"
    save_tensors({**load_tensors(path), "noise": torch.tensor([0.02])}, path)
    before = load_bundle(bundle)
    after = made(bundle, tmp_path / "new", split={"tag-05": ("x", "y")})
    kernel = KernelHead.load(tmp_path / "new" / "model", DIM, TAGS + 2)
    assert kernel is not None and kernel.noise is not None
    assert torch.equal(kernel.noise, torch.tensor([0.02]))
    torch.testing.assert_close(after.tag_TL[TAGS:], after.tag_TL[[5, 5]])
    features_BD = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))
    assert isinstance(before, DRELAnnotator)
    near_BR = kernel.kernel(before.model.standardised(features_BD))
    old = KernelHead.load(bundle, DIM, TAGS)
    assert old is not None
    evidence_BT = kernel.evidence(near_BR, slice(None))
    torch.testing.assert_close(evidence_BT[:, :TAGS], old.evidence(near_BR, slice(None)))
    torch.testing.assert_close(evidence_BT[:, TAGS:], evidence_BT[:, [5, 5]])


def test_kept_rows_of_a_split_tag_go(bundle: Path, tmp_path: Path) -> None:
    """Rehearsed without a part, they would teach that their images have none."""
    made(bundle, tmp_path / "new", split={"tag-02": ("x", "y")}, rename={"tag-03": "z"})
    kept = pq.read_table(tmp_path / "new" / "model" / RESERVOIR)
    assert kept["tags"].to_pylist() == [["z"], ["tag-04", "tag-05"], []]
    assert kept["image_id"].to_pylist() == ["b", "c", "d"]


def test_rules_can_be_replaced_and_a_merge_undone(bundle: Path, tmp_path: Path) -> None:
    made(bundle, tmp_path / "one", merge={"tag-01": "tag-02"})
    made(tmp_path / "one", tmp_path / "two", TagRules(blocked=("tag-07",)))
    rules = read_rules(tmp_path / "two" / "model")
    assert rules == TagRules(blocked=("tag-07",))
    made(tmp_path / "two", tmp_path / "three", TagRules())
    assert not (tmp_path / "three" / "model" / "vocabulary.yaml").exists()


def test_the_same_edit_again_is_done_already_and_another_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    out, said = Folder(str(tmp_path / "new")), list[str]()
    first = BundleEdits.of(str(bundle), TagEdits(merge={"tag-01": "tag-02"}))
    version = edit_bundle(first, out, said.append)
    assert edit_bundle(first, out, said.append) == version
    assert said[-1].endswith("is there already")
    other = BundleEdits.of(str(bundle), TagEdits(remove=("tag-01",)))
    with pytest.raises(InputError, match="holds another model"):
        edit_bundle(other, out, print)
    for place in (bundle, bundle.parent):
        with pytest.raises(InputError, match="holds the model itself"):
            edit_bundle(first, Folder(str(place)), print)


def test_nothing_is_left_where_it_is_stopped(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_card", stop)
    with pytest.raises(KeyboardInterrupt):
        made(bundle, tmp_path / "new", merge={"tag-01": "tag-02"})
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", OLD_BUNDLES)
def test_bundles_of_every_method_and_of_earlier_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(TRUSTED, "file:tests/data/network.pt")
    old = tmp_path / "old"
    shutil.copytree(ROOT / "tests" / "data" / name / "model", old)
    before = load_bundle(old)
    one, other, third = before.vocabulary.names[:3]
    edits = TagEdits({one: other}, {third: "renamed"})
    version = edit_bundle(BundleEdits.of(str(old), edits), Folder(str(tmp_path / "new")), print)
    after = load_bundle(tmp_path / "new")
    assert find_bundle(tmp_path / "new")[1] == version == after.info.version
    assert (after.info.parent, after.info.method) == (before.info.version, before.info.method)
    assert after.vocabulary.names == (one, other, "renamed", *before.vocabulary.names[3:])
    if before.info.method in ("drel", "wsabie"):
        split = BundleEdits.of(str(old), TagEdits(split={one: ("x", "y")}))
        edit_bundle(split, Folder(str(tmp_path / "split")), print)
        assert load_bundle(tmp_path / "split").num_tags == before.num_tags + 2
    else:
        with pytest.raises(InputError, match="has no row of a tag to split"):
            BundleEdits.of(str(old), TagEdits(split={one: ("x", "y")}))
    assert read_info(old).version == before.info.version

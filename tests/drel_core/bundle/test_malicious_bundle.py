"""Bundles that a stranger made: nothing in them runs, and each is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from distributed.serving.model import ServedModel
from drel_core.annotators.knn import KNNAnnotator, shard_file, write_standardisation
from drel_core.annotators.load import load_bundle
from drel_core.annotators.svm import SVMAnnotator
from drel_core.bundle.format import bundle_folder, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import DECISION
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.errors import InputError
from drel_core.images import backbone
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.pictures import tiny_network

TAGS = tuple(f"tag-{tag}" for tag in range(6))
DIM = 4


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def write(folder: Path, method: str) -> Path:
    """A small sound bundle."""
    if method == "drel":
        written = write_drel(folder, dim=DIM, names=TAGS, decider=random_decider(len(TAGS)))
        one = torch.ones(1)
        KernelHead(
            torch.randn(3, 2),
            one,
            torch.randn(3, 6),
            torch.rand(6),
            one / 9,
            one.clone(),
            torch.randn(DIM, 2),
        ).save(written / KERNEL)
        return written
    folder.mkdir(parents=True)
    vocabulary = Vocabulary(TAGS, np.arange(1, 7))
    torch.manual_seed(0)
    about: dict[str, Any] = {"train": {}, "image_dim": DIM}
    if method == "knn":
        tags = TagLists.from_lists([[0, 1], [2], [3, 4, 5], [0], [5]])
        annotator = KNNAnnotator.fit(torch.randn(5, DIM), tags, 6, 3)
        annotator.shards[0].save(folder / shard_file(0, 1))
        write_standardisation(folder, np.zeros(DIM), np.ones(DIM))
        about |= {"parts": 1, "k_neighbours": 3, "weighting": "uniform"}
    elif method == "svm":
        bias, slope, offset = (part.clone() for part in torch.randn(3, 6))
        SVMAnnotator(
            torch.randn(6, DIM), bias, slope, offset, torch.zeros(DIM), torch.ones(DIM)
        ).save(folder)
    write_bundle(folder, method, vocabulary, about)
    return folder


def refusal(folder: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(InputError) as caught:
        annotator = load_bundle(folder)
        annotator.annotate(torch.zeros(2, DIM), 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, name: str = "config.json", **change: Any) -> None:
    content = json.loads((folder / name).read_text("utf-8"))
    content.update(change)
    (folder / name).write_text(json.dumps(content), "utf-8")


METHODS = ("drel", "knn", "svm", "popularity")


@pytest.mark.parametrize("method", METHODS)
def test_a_sound_bundle_loads(tmp_path: Path, method: str) -> None:
    annotator = load_bundle(write(tmp_path / "m", method))
    assert annotator.annotate(torch.zeros(2, DIM), 2)[1].shape == (2, 2)


@pytest.mark.parametrize("method", ["drel", "knn", "svm"])
def test_a_pickle_in_disguise_does_not_run(tmp_path: Path, method: str) -> None:
    folder = write(tmp_path / "m", method)
    mark = tmp_path / "it ran"
    held = pickle.dumps({"weight": Bomb(mark)})
    torch.save({"weight": Bomb(mark)}, tmp_path / "zip")
    with pytest.raises(FileNotFoundError):
        shutil.rmtree(mark)
    for content in (held, (tmp_path / "zip").read_bytes()):
        for path in sorted(folder.glob("*.safetensors")):
            before = path.read_bytes()
            path.write_bytes(content)
            refusal(folder)
            path.write_bytes(before)
        for name in ("config.json", "vocabulary.json"):
            before = (folder / name).read_bytes()
            (folder / name).write_bytes(content)
            refusal(folder)
            (folder / name).write_bytes(before)
    assert not mark.exists()
    load_bundle(folder)
    pickle.loads(held)  # the bomb itself works
    assert mark.exists()


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 99_999_999),
        struct.pack("<Q", 2) + b"{}",
        b"",
        b"\0" * 8,
        struct.pack("<Q", 72)
        + b'{"weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'.ljust(72),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: bytes) -> None:
    folder = write(tmp_path / "m", "drel")
    for path in folder.glob("[mt]*.safetensors"):
        before = path.read_bytes()
        path.write_bytes(header)
        assert "damaged" in refusal(folder)
        path.write_bytes(before)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        "[]",
        "null",
        '"x"',
        "{",
        '{"format": ' + "9" * 5000 + "}",
        "\ufeff{}",
        '{"names": NaN}',
        "\x00",
    ],
)
def test_texts_that_are_bombs_or_none_are_refused(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "m", "drel")
    for name in ("config.json", "vocabulary.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_text(content, "utf-8")
        refusal(folder)
        (folder / name).write_bytes(before)


def test_a_text_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "drel")
    with open(folder / "config.json", "r+b") as file:
        file.truncate(17 << 20)  # a hole: no disk is used
    assert "at most" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"names": [*TAGS, "one more"], "counts": [1] * 7},
        {"names": TAGS[:-1], "counts": [1] * 5},
        {"counts": [1] * 5},
        {"counts": [1, 1, 1, 1, 1, -1]},
        {"counts": [1.5] * 6},
        {"counts": ["1"] * 6},
        {"counts": [2**70] * 6},
        {"counts": [[1]] * 6},
        {"counts": 3},
        {"names": [1, 2, 3, 4, 5, 6]},
        {"names": [*TAGS[:-1], ""]},
        {"names": [*TAGS[:-1], TAGS[0]]},
        {"names": [*TAGS[:-1], {}]},
        {"names": "abcdef"[:5]},
        {"names": None},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_vocabulary_that_does_not_fit_is_refused(
    tmp_path: Path, method: str, change: dict[str, Any]
) -> None:
    folder = write(tmp_path / "m", method)
    edit(folder, "vocabulary.json", **change)
    refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"method": ["drel"]},
        {"method": "__import__('os')"},
        {"format": 2},
        {"format": True},
        {"version": 7},
        {"version": "a\nb"},
        {"version": "x" * 65},
        {"version": "../x"},
        {"version": ""},
        {"num_tags": 7},
        {"num_tags": "6"},
        {"num_tags": True},
        {"trained_at": 1},
        {"train": []},
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write(tmp_path / "m", "drel")
    edit(folder, **change)
    if change.get("format") is True:  # JSON's true is 1 in Python
        load_bundle(folder)
    else:
        refusal(folder)


@pytest.mark.parametrize("parts", ["../../x", "1", -1, 0, 2, 10**12, 1.5, None, ["x"], {"a": 1}])
def test_numbers_of_parts_that_are_none_are_refused(tmp_path: Path, parts: Any) -> None:
    (tmp_path / "x-of-00001.safetensors").write_bytes(b"")
    folder = write(tmp_path / "m", "drel")
    edit(folder, table_parts=parts)
    refusal(folder)
    if parts not in ("1", 1.5):  # both are the number 1 for kNN
        folder = write(tmp_path / "k", "knn")
        edit(folder, parts=parts)
        refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"image_dim": 10**13},
        {"image_dim": "4"},
        {"image_dim": -1},
        {"latent": 10**10},
        {"image_hidden": 10**12},
        {"tag_dim": 10**9},
        {"activation": "eval"},
        {"depth": 3},
        {"power": "x"},
        {"scale": "x"},
    ],
)
def test_sizes_that_the_tensors_do_not_have_cost_no_memory(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = write(tmp_path / "m", "drel")
    about = json.loads((folder / "config.json").read_text("utf-8"))
    edit(folder, model={**about["model"], **change})
    refusal(folder)


@pytest.mark.parametrize(
    "name", ["../elsewhere", "/etc", "a/../../b", "", ".", "..", "\x00", "x" * 300, "v\nw"]
)
def test_latest_names_a_folder_beside_it(tmp_path: Path, name: str) -> None:
    write(tmp_path / "elsewhere", "popularity")
    versions = tmp_path / "versions"
    write(versions / "v1", "popularity")
    (versions / "latest").write_text(name)
    with pytest.raises(InputError) as caught:
        bundle_folder(versions)
    assert "\n" not in str(caught.value)


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "drel")
    folder = write(tmp_path / "versions" / "v1", "drel")
    outside = tmp_path / "elsewhere" / "model.safetensors"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    assert "leads out of the bundle" in refusal(folder)
    (folder / "model.safetensors").unlink()
    (folder / "kept.safetensors").write_bytes(outside.read_bytes())
    (folder / "model.safetensors").symlink_to("kept.safetensors")
    load_bundle(folder)  # a link inside is none of that
    (tmp_path / "versions" / "v2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "versions" / "latest").write_text("v2")
    with pytest.raises(InputError, match="leads out"):
        bundle_folder(tmp_path / "versions")
    os.mkfifo(folder / "pipe")
    assert "not a plain file" in refusal(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["drel", "knn", "svm"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, method: str, bad: float) -> None:
    folder = write(tmp_path / "m", method)
    for path in sorted(folder.glob("*.safetensors")):
        before = path.read_bytes()
        for name, tensor in load_file(path).items():
            if not tensor.is_floating_point() or name == "state":
                continue
            tensors = load_file(path)
            tensors[name] = tensor.clone()
            tensors[name].view(-1)[-1] = bad
            save_file(tensors, path)
            assert "NaN or Inf" in refusal(folder), (path.name, name)
        path.write_bytes(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["tags"].fill_(6),
        lambda t: t["tags"].fill_(-1),
        lambda t: t["tags"].fill_(2**40),
        lambda t: t["offsets"].fill_(2**40),
        lambda t: t["offsets"][1:3].copy_(torch.tensor([9, 1])),
        lambda t: t["offsets"][0:1].fill_(-3),
        lambda t: t.update(features=t["features"][:2].clone()),
        lambda t: t.update(tags=t["tags"].float()),
        lambda t: t["start"].fill_(5),
    ],
)
def test_ids_that_point_outside_are_refused(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    """A sparse product would read wherever they point."""
    folder = write(tmp_path / "m", "knn")
    path = folder / shard_file(0, 1)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    refusal(folder)


@pytest.mark.parametrize(
    "change", [{"k_neighbours": 0}, {"k_neighbours": "3"}, {"weighting": "cubic"}]
)
def test_settings_of_knn_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write(tmp_path / "m", "knn")
    edit(folder, **change)
    refusal(folder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (KERNEL, {"landmark_RD": torch.zeros(3, 9)}),
        (KERNEL, {"landmark_RD": torch.zeros(3)}),
        (KERNEL, {"basis_Dd": torch.zeros(9, 2)}),
        (KERNEL, {"basis_Dd": torch.zeros(4)}),
        (KERNEL, {"weight_RT": torch.zeros(2, 6)}),
        (KERNEL, {"weight_RT": torch.zeros(3, 7)}),
        (KERNEL, {"share_T": torch.zeros(5)}),
        (KERNEL, {"share_T": torch.zeros(6, 2)}),
        (KERNEL, {"floor": torch.zeros(1)}),
        (KERNEL, {"floor": -torch.ones(1)}),
        (KERNEL, {"factor": torch.ones(2)}),
        (KERNEL, {"sharpness": torch.tensor(1.0)}),
        (KERNEL, {"floor": torch.tensor([float("nan")])}),
        (DECISION, {"slope": torch.ones(2)}),
        (DECISION, {"slope": torch.tensor(1.0)}),
        (DECISION, {"gain_T": torch.ones(5)}),
        (DECISION, {"offset_T": torch.ones(6, 1)}),
        (DECISION, {"shift_T": torch.full((6,), float("inf"))}),
        (DECISION, {"cut_T": torch.ones(5)}),
        (DECISION, {"link": torch.ones(3)}),
        (DECISION, {"reliability": torch.ones(10, 2, dtype=torch.int64)}),
        (DECISION, {"reliability": torch.full((1000, 2), -1)}),
        (KERNEL, {"noise": torch.zeros(1)}),
        (KERNEL, {"noise": torch.ones(2)}),
        (KERNEL, {"noise": torch.ones(7)}),
        (KERNEL, {"noise": torch.ones(6, 1)}),
        (KERNEL, {"noise": torch.tensor([1.0, 1, 1, 1, 1, 0])}),
    ],
)
def test_a_kernel_or_a_decider_that_does_not_fit_is_refused(
    tmp_path: Path, file: str, change: dict[str, torch.Tensor]
) -> None:
    folder = write(tmp_path / "m", "drel")
    save_file({**load_file(folder / file), **change}, folder / file)
    refusal(folder)


# Networks that a bundle names


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network has been named in this process yet."""
    monkeypatch.setattr(backbone, "_told", set())
    monkeypatch.delenv(backbone.TRUSTED, raising=False)


@pytest.mark.parametrize(
    "name",
    [
        "file:{net}",
        "file:/etc/passwd",
        "timm:hf-hub:stranger/model",
        "timm:local-dir:/tmp/x",
        "torchvision:../x",
        "magic",
        "",
        None,
        7,
        ["efficientnet-lite0"],
        "efficientnet-lite0\n",
        "timm:",
    ],
)
def test_a_bundle_does_not_choose_what_code_runs(
    tmp_path: Path, forgetful: None, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    """Neither as the network of its features nor as that of a model of pictures."""
    named = tiny_network(tmp_path / "net.pt") if name == "file:{net}" else name
    loaded = []
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: loaded.append(a))
    features = {"kind": "cnn", "name": named, "weights_sha256": "x", "preprocessing": {}}
    with pytest.raises(InputError, match="whose code would run") as caught:
        ServedModel(str(write_drel(tmp_path / "m", features=features)))
    assert "\n" not in str(caught.value).rstrip("\n'") and not loaded
    folder = write(tmp_path / "c", "popularity")
    save_file({"head.weight": torch.zeros(6, 3)}, folder / "cnn.safetensors")
    edit(folder, method="cnn-softmax", cnn={"backbone": named})
    with pytest.raises(InputError, match="whose code would run"):
        load_bundle(folder)
    assert not loaded


def test_a_network_is_taken_that_the_operator_names_too(
    tmp_path: Path, forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tiny_network(tmp_path / "net.pt")
    with pytest.raises(InputError, match="whose code would run"):
        backbone.check_named_by_bundle(name)
    monkeypatch.setenv(backbone.TRUSTED, f"x,{name}")
    backbone.check_named_by_bundle(name)
    monkeypatch.delenv(backbone.TRUSTED)
    backbone.load_backbone(name)  # an option of this process
    backbone.check_named_by_bundle(name)


@pytest.mark.parametrize(
    "features",
    [
        {"kind": "cnn", "name": "efficientnet-lite0"},
        {
            "kind": "cnn",
            "name": "efficientnet-lite0",
            "weights_sha256": "0" * 64,
            "preprocessing": {},
        },
        {"kind": "cnn"},
        {"kind": "cnn", "name": "efficientnet-lite0", "preprocessing": {"size": 10**9}},
    ],
)
def test_features_described_wrongly_are_refused(tmp_path: Path, features: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ServedModel(str(write_drel(tmp_path / "m", features=features)))
    assert "\n" not in str(caught.value)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_change_of_a_description_ends_in_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, method: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    write(folder, method)
    about = json.loads((folder / "config.json").read_text("utf-8"))
    at = about["model"] if method == "drel" and data.draw(st.booleans()) else about
    at[data.draw(st.sampled_from(sorted(at)))] = data.draw(VALUES)
    (folder / "config.json").write_text(json.dumps(about), "utf-8")
    try:
        load_bundle(folder).annotate(torch.zeros(2, DIM), 2)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(folder)

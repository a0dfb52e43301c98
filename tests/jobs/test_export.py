"""jobs.export: what comes out gives the same scores where this project is not to be had."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.cnn import CNN, CNNConfig
from drel_core.annotators.load import load_bundle
from drel_core.annotators.svm import SVMAnnotator
from drel_core.bundle.format import write_bundle
from drel_core.bundle.tag_rules import TagGroup, TagRules
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.errors import InputError
from drel_core.export import two_tower
from drel_core.model.towers import ModelConfig
from jobs.export import main
from tests.conftest import Job
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import run
from tests.helpers.pictures import tiny_network

DIM, TAGS = 8, 50  # more tags than the level of probabilities is made of
SHAPES = {
    "best": ModelConfig(
        image_hidden=16,
        tag_dim=6,
        tag_hidden=7,
        latent=5,
        activation="gelu",
        latent_activation=False,
        layer_norm=True,
        linear_path=True,
        normalise=True,
        tag_bias=True,
        tag_prior=0.75,
        metric="identity",
        power=0.5,
    ),
    "paper": ModelConfig(image_hidden=16, tag_dim=6, tag_hidden=7, latent=5),
    "tanh": ModelConfig(
        image_hidden=16,
        tag_dim=6,
        tag_hidden=7,
        latent=5,
        activation="tanh",
        metric="none",
        power=0.7,
    ),
    "relu": ModelConfig(
        image_hidden=16,
        tag_dim=6,
        tag_hidden=7,
        latent=5,
        activation="relu",
        linear_path=True,
        tag_prior=0.3,
    ),
    "wsabie": ModelConfig(
        tag_dim=5,
        latent=5,
        metric="none",
        image_tower="linear",
        tag_tower="none",
        max_norm=0.3,
        standardise=False,
    ),
}
# Neither this project nor what it trains with can be imported, whatever lies on the path.
ALONE = """
import importlib.util, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ImportError("must not be needed: " + name)
sys.meta_path.insert(0, Refuse())
import numpy as np
spec = importlib.util.spec_from_file_location("annotate", sys.argv[1])
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
names, scores = example.annotate(np.load(sys.argv[2]), int(sys.argv[3]))
np.savez(sys.argv[4], names=names, scores=scores)
"""
PROJECT = ("drel_core", "distributed", "jobs", "ray", "pyarrow")


def described(folder: Path, method: str, **about: object) -> Path:
    counts = np.arange(TAGS) * 7 % 23 + 1  # many are alike
    names = tuple(f"tag-{tag:02d}" for tag in range(TAGS))
    write_bundle(
        folder, method, Vocabulary(names, counts), {"image_dim": DIM, "train": {}, **about}
    )
    return folder


def write_svm(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    SVMAnnotator(
        torch.randn(TAGS, DIM),
        torch.randn(TAGS),
        -torch.rand(TAGS) - 0.5,
        torch.randn(TAGS),
        torch.randn(DIM),
        torch.rand(DIM) + 0.5,
    ).save(folder)
    return described(folder, "svm")


def with_kernel(folder: Path, decider: Decider | None, noise: str) -> Path:
    """A bundle of DREL with kernel regression; bundles of before have one noise for all tags, or none."""
    generator = torch.Generator().manual_seed(5)

    def random(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    write_drel(folder, DIM, TAGS, shape=SHAPES["best"], decider=decider)
    one = torch.ones(1)
    head = KernelHead(
        random(9, 4),
        one * 0.05,
        random(9, TAGS),
        random(TAGS),
        one * 0.01,
        one * 0.7,
        torch.linalg.qr(random(DIM, 4)).Q,
        {"none": None, "one": one * 0.02, "of each tag": 0.01 + random(TAGS)}[noise],
    )
    head.save(folder / KERNEL)
    return folder


def bundle_of(kind: str, folder: Path) -> Path:
    """A shape of DREL, or a method; after a dash, what it has beside that."""
    kind, _, more = kind.partition("-")
    decider = random_decider(TAGS) if more else None
    if more == "kernel":
        return with_kernel(folder, decider, noise="of each tag")
    if more == "one noise":
        return with_kernel(folder, decider, noise="one")
    if more == "floor":
        return with_kernel(folder, None, noise="none")
    if kind in SHAPES:
        method = "wsabie" if kind == "wsabie" else "drel"
        return write_drel(folder, DIM, TAGS, shape=SHAPES[kind], method=method, decider=decider)
    if kind == "svm":
        write_svm(folder)
    else:
        folder.mkdir(parents=True)
        described(folder, kind)
    if decider is not None:
        decider.save(folder / DECISION)
    return folder


def alone(
    out: Path, images: np.ndarray, k: int, refused: tuple[str, ...]
) -> tuple[np.ndarray, ...]:
    """The example of an export, in a process that has nothing of this project."""
    work = out.parent / "alone"
    work.mkdir(exist_ok=True)
    np.save(work / "images.npy", images)
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            ALONE.format(refused=refused),
            out / "examples" / "annotate.py",
            work / "images.npy",
            str(k),
            work / "found.npz",
        ],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(work / "found.npz")
    return found["names"], found["scores"]


def check(model: Path, out: Path, images: np.ndarray, k: int, refused: tuple[str, ...]) -> None:
    annotator = load_bundle(model)
    flat = torch.from_numpy(images.reshape(len(images), int(np.prod(images.shape[1:])))).float()
    score_Bk, tag_Bk = annotator.annotate(flat, k)
    names, scores = alone(out, images, k, refused)
    assert names.tolist() == np.array(annotator.vocabulary.names)[tag_Bk.numpy()].tolist()
    np.testing.assert_allclose(scores, score_Bk.numpy(), rtol=1e-5, atol=1e-5)


KINDS = (
    *SHAPES,
    "best-decider",
    "best-kernel",
    "best-one noise",
    "best-floor",
    "wsabie-decider",
    "svm",
    "svm-decider",
    "popularity",
    "popularity-decider",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_gives_the_same_tags_and_scores_without_this_project(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.startswith("best"):
        monkeypatch.setattr(two_tower, "PIECE_BYTES", 4 * 6 * 20)  # 20 tags a file
    model, out = bundle_of(kind, tmp_path / "model"), tmp_path / "out"
    main(["--model", str(model), "--out", str(out), "--format", "torch"])
    features = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    check(model, out, features, 4, (*PROJECT, "torch"))
    check(model, out, features[:1], 100, (*PROJECT, "torch"))
    check(model, out, features[:0], 4, (*PROJECT, "torch"))
    files = sorted(path.name for path in out.glob("tags-*"))
    assert len(files) == (3 if kind.startswith("best") else 1)
    assert (out / DECISION).exists() == (model / DECISION).exists()
    vocabulary = json.loads((out / "vocabulary.json").read_text("utf-8"))
    assert vocabulary == load_bundle(model).vocabulary.to_dict()
    readme = (out / "README.md").read_text("utf-8")
    for path in out.iterdir():
        assert (
            path.name in readme
            or path.name.startswith("tags-")
            or path.name in ("examples", "README.md")
        )
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("decider", [None, random_decider(TAGS)])
def test_the_example_keeps_to_the_rules(tmp_path: Path, decider: Decider | None) -> None:
    model, out = (
        write_drel(tmp_path / "model", dim=DIM, tags=TAGS, decider=decider),
        tmp_path / "out",
    )
    names = load_bundle(model).vocabulary.names
    rules = TagRules(
        {names[0]: names[1]},
        {names[2]: (names[3], names[4]), names[5]: (names[4],)},
        {"one": TagGroup(names[6:20], 1), "two": TagGroup(names[18:25], 2)},
        names[25:30],
    )
    (model / "vocabulary.yaml").write_text(rules.to_yaml(), encoding="utf-8")
    main(["--model", str(model), "--out", str(out), "--format", "torch"])
    assert TagRules.load(out / "vocabulary.yaml") == rules
    assert "rules.json" in (out / "README.md").read_text("utf-8")
    features = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    for k in (1, 5, 100):
        annotator = load_bundle(model)
        chosen = choose(annotator, torch.from_numpy(features), k, decision_of(annotator, "top"))
        found, scores = alone(out, features, k, (*PROJECT, "torch", "yaml"))
        said = np.where(chosen.ids >= 0, np.array(names)[chosen.tag_Bk], "")
        width = said.shape[1]
        assert found[:, :width].tolist() == said.tolist() and not "".join(found[:, width:].flat)
        keep_Bk = (chosen.ids >= 0).numpy()
        np.testing.assert_allclose(
            scores[:, :width][keep_Bk], chosen.probability_Bk.numpy()[keep_Bk], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["best", "wsabie"])
def test_both_programs_of_the_image_tower_give_its_latents(tmp_path: Path, kind: str) -> None:
    model, out = bundle_of(kind, tmp_path / "model"), tmp_path / "out"
    main(["--model", str(model), "--out", str(out), "--format", "both"])
    annotator = load_bundle(model)
    session = onnxruntime.InferenceSession(out / "image_tower.onnx")
    program = torch.export.load(out / "image_tower.pt2").module()
    tags = load_file(out / "tags-00000.safetensors")
    for rows in (0, 1, 2, 33):
        features = torch.randn(rows, DIM)
        features[:, 2] = 0
        expected = annotator.scores(features).numpy()
        for latents in (
            session.run(None, {"features": features.numpy()})[0],
            program(features).detach(),
        ):
            score = np.asarray(latents) @ tags["tag"].T + tags["bias"]
            np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "decider"), [("onnx", True), ("torch", True), ("torch", False)])
def test_a_network_from_pictures_gives_the_same_tags(
    tmp_path: Path, form: str, decider: bool
) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    torch.manual_seed(0)
    network = CNN(CNNConfig(size=32), TAGS)
    network.save(folder)
    if decider:
        random_decider(TAGS).save(folder / DECISION)
    described(folder, "cnn-hinge", image_dim=32 * 32 * 3, cnn={"size": 32})
    main(["--model", str(folder), "--out", str(out), "--format", form])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    check(folder, out, pixels, 4, (*PROJECT, "torch") if form == "onnx" else PROJECT)


def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], job: Job
) -> None:
    model = write_drel(tmp_path / "model")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    knn = tmp_path / "knn"
    knn.mkdir()
    described(knn, "knn")
    broken = write_drel(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    script = tmp_path / "script"
    script.mkdir()
    config = CNNConfig(backbone=tiny_network(tmp_path / "net.pt"), size=32)
    CNN(config, TAGS).save(script)
    described(script, "cnn-softmax", cnn={"backbone": config.backbone, "size": 32})
    out = tmp_path / "out"
    for arguments, words in (
        ((model, full), "holds files"),
        ((model, full / "mine.txt"), "is a file"),
        ((model, full / "mine.txt" / "below"), "cannot be written"),
        ((model, model / "export"), "never changes"),
        ((tmp_path / "nowhere", out), "no model bundle"),
        ((knn, out), "kNN cannot be exported"),
        ((broken, out), "damaged"),
        ((script, out), "TorchScript"),
        ((model, out, "--format", "tflite"), "format"),
    ):
        given, to, *more = arguments
        try:
            main(["--model", str(given), "--out", str(to), *more])
        except InputError as error:
            told = str(error)
        except SystemExit as error:  # the parser's own
            assert error.code == 2
            told = capfd.readouterr().err
        else:
            pytest.fail(f"{words!r} was not said")
        assert words in told
    done = job("export", "--model", knn, "--out", out)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error:") and "kNN cannot be exported" in done.stderr
    assert not out.exists() and not list(tmp_path.glob(".*")) and not (model / "export").exists()
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_a_new_or_empty_folder_is_taken_and_the_example_runs_from_a_command_line(
    tmp_path: Path, job: Job
) -> None:
    model, out = write_drel(tmp_path / "model"), tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    done = run("export", "--model", model, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "12 tags, image_tower.onnx" in done.stdout
    np.save(tmp_path / "x.npy", np.ones((2, DIM), np.float32))
    line = [sys.executable, "-I", out / "examples" / "annotate.py", tmp_path / "x.npy", "3"]
    said = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(row) for row in said.splitlines()]
    assert len(rows) == 2 and [len(row) for row in rows] == [3, 3] and rows[0] == rows[1]
    again = job("export", "--model", model, "--out", out)
    assert again.returncode == 2 and "holds files" in again.stderr
    np.save(tmp_path / "wide.npy", np.ones((2, DIM + 1), np.float32))
    np.savez(tmp_path / "several.npz", np.ones((2, DIM), np.float32))
    for wrong, says in (
        ([], "required: FEATURES.npy"),
        (["x.npy", "0"], "k is 0; it must be 1 or more"),
        (["none.npy"], "none.npy: cannot be read (["),
        (["wide.npy"], f"wide.npy has shape [2, {DIM + 1}]; it must be [B, {DIM}]"),
        (["several.npz"], f"it must be [B, {DIM}]"),
    ):
        told = subprocess.run([*line[:3], *wrong], cwd=tmp_path, capture_output=True, text=True)
        assert told.returncode == 2 and says in told.stderr.splitlines()[-1], told.stderr


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_tag_matrix(tmp_path: Path) -> None:
    """1.5 GB of tag matrix from small embeddings."""
    names = tuple(f"t{tag}" for tag in range(1_500_000))
    shape = ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=256, tag_prior=0.5)
    model = write_drel(tmp_path / "model", names=names, shape=shape)
    code = (
        "import resource, sys, jobs.export as e\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "e.main(sys.argv[1:])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "--model",
            model,
            "--out",
            tmp_path / "out",
            "--format",
            "torch",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    grown = float(done.stdout.split()[-1])
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("tags-*")) / 2**20
    assert size > 1400 and grown < 0.75 * size

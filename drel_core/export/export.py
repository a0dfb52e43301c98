"""A trained model for use without this project: plain arrays, an ONNX or torch.export network, an example.

model.json                      method, version, D, L, T, and how the image tower is to be read
vocabulary.json                 names and training counts
image_tower.safetensors         weights of the image tower; empty where features are compared as they are
image_tower.onnx, .pt2          the same as a program (cnn-*: the network, which has no other form here)
tags-00000.safetensors          vector and bias of some tags, in order
kernel.safetensors              kernel regression, where there is one
decision.safetensors            what turns scores into probabilities and decisions, where it is known
vocabulary.yaml, rules.json     rules of tags by their names and by their places, where there are some
MODEL_CARD.md                   the bundle's model card, where it has one
examples/annotate.py, rules.py, README.md

Shapes: B images, D feature size, L latent size, T tags, n tags of a file, S side of a picture.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from drel_core.bundle.card import CARD
from drel_core.bundle.format import (
    read_info,
    read_rules,
    read_vocabulary,
    reading,
    write_json,
    write_rules,
)
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.tensor_files import save_tensors
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.calibration import KNOTS, LEVEL_TAGS
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.errors import InputError, disk_fault
from drel_core.export.two_tower import TwoTower, two_tower

Format = Literal["onnx", "torch", "both"]
FORMAT = 1
MODEL = "model.json"
RULES = "rules.json"
MODEL_CARD = "MODEL_CARD.md"
"""The bundle's ``README.md``; an export has one of its own."""
_CARD_SAYS = "what the model was trained on, how good it is, and its limits"
_FILES = Path(__file__).parent / "example"


def export_bundle(bundle: Path, out: Path, form: Format) -> dict[str, Any]:
    """Export a bundle to the new folder ``out``, whole or not at all.

    Args:
        form: which programs of the image tower to write beside its weights.

    Returns:
        The content of ``model.json``.

    Raises:
        InputError: the method or network cannot be exported, the bundle is damaged, or ``out`` holds files.
    """
    info = read_info(bundle)
    check_out(bundle, out)
    partial = work_folder(out) / "export"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        described = _write(bundle, info, partial, form)
        partial.rename(out)
    except OSError as error:
        raise InputError(f"{out}: --out cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(work_folder(out), ignore_errors=True)
    return described


def work_folder(out: Path) -> Path:
    """Where an export lies until it is whole. Whoever exports to ``out`` may hold it."""
    return out.with_name(f".{out.name}.partial")


def check_out(bundle: Path, out: Path) -> None:
    """Check that a bundle can be exported to ``out``.

    Raises:
        InputError: ``out`` holds files, is a file, or lies in the bundle.
    """
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: --out holds files; give a new or empty folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: --out is a file; give a new or empty folder")
    if bundle in out.parents:
        raise InputError(f"{out}: --out lies in the model; a bundle never changes")


def _write(bundle: Path, info: BundleInfo, folder: Path, form: Format) -> dict[str, Any]:
    vocabulary = read_vocabulary(bundle)
    with reading(bundle):
        model = two_tower(bundle, info, vocabulary)
        decider = Decider.load(bundle, len(vocabulary))
        files = _write_tags(model, len(vocabulary), folder)
    save_tensors(model.tower, folder / "image_tower.safetensors")
    programs = _write_programs(model, folder, form)
    kernel = KernelHead.load(bundle, model.image_dim, len(vocabulary))
    for name, part in ((KERNEL, kernel), (DECISION, decider)):
        if part is not None:
            shutil.copyfile(bundle / name, folder / name)
    rules = read_rules(bundle)
    method, pictures = info.method, info.method.startswith("cnn-")
    described = {
        "export_format": FORMAT,
        "method": method,
        "version": info.version,
        "trained_at": info.trained_at,
        "D": model.image_dim,
        "L": model.latent,
        "T": len(vocabulary),
        "unseen": int((vocabulary.counts == 0).sum()),
        "link": _link(method, decider),
        "knots": list(KNOTS),
        "level_tags": LEVEL_TAGS,
        "tag_files": files,
        "programs": programs,
        "kernel": _kernel(kernel, decider),
        "decisions": decider is not None,
        "rules": bool(rules),
        "features": info.features,
        "columns": [{"name": b.name, "D": b.dim} for b in info.blocks] if not pictures else [],
        **model.how,
    }
    write_json(folder / MODEL, described)
    write_json(folder / "vocabulary.json", vocabulary.to_dict())
    (folder / "examples").mkdir()
    example = "annotate_pictures.py" if pictures else "annotate_features.py"
    shutil.copyfile(_FILES / example, folder / "examples" / "annotate.py")
    if rules:
        write_rules(folder, rules)
        write_json(folder / RULES, AnswerRules(rules, vocabulary.names).as_ids())
        shutil.copyfile(_FILES / "rules.py", folder / "examples" / "rules.py")
    has_card = (bundle / CARD).is_file()  # bundles of before have none
    if has_card:
        shutil.copyfile(bundle / CARD, folder / MODEL_CARD)
    readme = _readme(described, pictures, has_card)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return described


def _link(method: str, decider: Decider | None) -> list[float] | None:
    """Log odds of ``(z, level, softplus(z - knot) …, 1)``; None where scores are no probabilities."""
    if decider is not None:
        return [float(weight) for weight in decider.calibration.link]
    return [1.0, 0.0, 0.0, 0.0] if method == "svm" else None


def _kernel(kernel: KernelHead | None, decider: Decider | None) -> dict[str, float] | None:
    """How the log of the kernel's estimates enters z: ``factor log(max(least, estimate) + noise)``, the noise
    of each tag beside its weights, or one number here."""
    if kernel is None:
        return None
    slope = 1.0 if decider is None else float(decider.calibration.slope)
    how = {
        "factor": float(kernel.factor) * slope,
        "least": float(kernel.floor) if kernel.noise is None else 0.0,
    }
    if not kernel.noise_is_of_tags:
        how["noise"] = 0.0 if kernel.noise is None else float(kernel.noise)
    return how


def _write_tags(model: TwoTower, total: int, folder: Path) -> list[str]:
    """Write one file for each piece of the tag matrix, holding one at a time; gives their names."""
    names: list[str] = []
    start = 0
    for tag_nL1 in model.tags:
        stop = start + len(tag_nL1)
        tensors = {"tag": tag_nL1[:, :-1].contiguous(), "bias": tag_nL1[:, -1].contiguous()}
        names.append(f"tags-{len(names):05d}.safetensors")
        save_tensors(tensors, folder / names[-1])
        start = stop
    assert start == total
    return names


def _write_programs(model: TwoTower, folder: Path, form: Format) -> list[str]:
    """Write the image tower as programs; gives the names of the files.

    Raises:
        InputError: the network cannot be written as a program.
    """
    if model.network is None:
        return []
    assert model.sample is not None
    name = "pixels" if model.sample.dtype == torch.uint8 else "features"
    written = []
    batch = ({0: torch.export.Dim.DYNAMIC},)
    # Both write long texts, as warnings and on standard error, about what is fine.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model.network, (model.sample,), dynamic_shapes=batch)
            if form != "onnx":
                buffer = io.BytesIO()  # its own writer ends the process where the disk is full
                torch.export.save(program, buffer)
                (folder / "image_tower.pt2").write_bytes(buffer.getvalue())
                written.append("image_tower.pt2")
            if form != "torch":
                _write_onnx(program, name, folder / "image_tower.onnx")
                written.append("image_tower.onnx")
        except Exception as error:
            if (fault := disk_fault(error)) is not None:
                raise fault from error
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"the network cannot be written as a program ({first}); networks from TorchScript files "
                "cannot, those of timm, torchvision and efficientnet-lite0 can"
            ) from error
    return written


def _write_onnx(program: torch.export.ExportedProgram, name: str, path: Path) -> None:
    from onnxscript import opset18  # a second to import

    def copysign(size: Any, sign: Any) -> Any:  # ONNX has none; of a zero the sign does not matter
        return opset18.Mul(opset18.Abs(size), opset18.Sign(sign))

    torch.onnx.export(
        program,
        (),
        path,
        input_names=[name],
        output_names=["latents"],
        dynamo=True,
        verbose=False,
        external_data=False,
        custom_translation_table={torch.ops.aten.copysign.Tensor: copysign},
    )


def _readme(described: dict[str, Any], pictures: bool, has_card: bool) -> str:
    about = described
    if pictures:
        takes = f"pictures as uint8 pixels `[B, {about['side']}, {about['side']}, 3]`"
        run = "python examples/annotate.py PICTURE..."
        needs = "numpy, safetensors, Pillow and onnxruntime (or torch for the .pt2 program)"
    else:
        takes = f"float32 features `[B, {about['D']}]`, as they were when the model was trained"
        if len(about["columns"]) > 1:
            blocks = ", ".join(f"`{block['name']}` [{block['D']}]" for block in about["columns"])
            takes += f", one column after another: {blocks}"
        run = "python examples/annotate.py FEATURES.npy 5"
        needs = "numpy and safetensors"
    name = "pixels" if pictures else "features"
    lines = [
        f"# {about['method']}, version {about['version']}",
        "",
        f"An image annotation model with {about['T']} tags. It takes {takes}, and gives "
        + ("the probability of each tag." if about["link"] else "a score of each tag."),
        "",
        f"    {run}",
        "",
        f"The example needs {needs}; `annotate(images, k)` in it can be imported.",
        "",
        "    z = tag @ image + bias",
        *_further(about),
        "",
        "Of equal scores the tag that comes first in the vocabulary is the better one.",
        "",
        "| file | holds |",
        "| --- | --- |",
        "| model.json | what the model is and how its image tower is read |",
        *([f"| {MODEL_CARD} | {_CARD_SAYS} |"] if has_card else []),
        "| vocabulary.json | names and training counts of the tags, in the order of their rows"
        + (f"; {about['unseen']} have none: known by name alone |" if about["unseen"] else " |"),
        f"| tags-*.safetensors | `tag` [n, {about['L']}] with the tag tower, M and the temperature applied; "
        "`bias` [n] with the frequency prior in it"
        + ("; the calibration is in both |" if about["decisions"] else " |"),
    ]
    if not pictures:
        empty = "" if about["programs"] else "empty: features are compared as they are"
        holds = empty or "weights that turn features into `image`"
        lines.append(f"| image_tower.safetensors | {holds} |")
    if about["kernel"]:
        lines.append(
            f"| {KERNEL} | regression on landmarks: standardised features, weights, shares"
            + (" |" if "noise" in about["kernel"] else ", noise |")
        )
    if about["rules"]:
        lines.append(
            f"| vocabulary.yaml, {RULES} | rules of tags, by names and by places: `hidden` tags are never "
            "said, a tag is at least as probable as what it is `implied` by, groups with `limits` give no "
            "more than so many; `examples/rules.py` does it |"
        )
    if about["decisions"]:
        lines.append(
            f"| {DECISION} | of each tag `cut_T`, the least probability at which it is worth saying, and "
            "`gain_T` and `offset_T`: the tags with the highest `gain p + offset` maximise expected macro "
            "F1 |"
        )
    for program in about["programs"]:
        kind = "ONNX" if program.endswith("onnx") else "torch.export program"
        shape = f"`{name}` to `latents` [B, {about['L']}] = `image`"
        lines.append(f"| {program} | {kind}, any batch size: {shape} |")
    if about["features"]:
        told = json.dumps(about["features"], indent=1, ensure_ascii=False)
        lines += ["", "The features come from", "", *(f"    {line}" for line in told.splitlines())]
    return "\n".join(lines) + "\n"


def _further(about: dict[str, Any]) -> list[str]:
    """Formulas of kernel and probability, where the model has them."""
    lines = []
    if (kernel := about["kernel"]) is not None:
        noise = f"{kernel['noise']:g}" if "noise" in kernel else "noise"
        lines += [
            "    estimate = exp(-sharpness |x - landmark|^2) @ weight + share",
            f"    z = z + {kernel['factor']:.6g} log(max({kernel['least']:g}, estimate) + {noise})",
        ]
    if (link := about["link"]) is None:
        return [*lines, "    score = z"]
    a, b, *bends, constant = (f"{weight:.6g}" for weight in link)
    bent = "".join(
        f" + {bend} log(1 + exp(z - {knot:g}))"
        for knot, bend in zip(about["knots"], bends, strict=False)
    )
    return [
        *lines,
        f"    level = log-sum-exp of the image's {about['level_tags']} best z",
        f"    score = sigmoid({a} z + {b} level{bent} + {constant})",
    ]

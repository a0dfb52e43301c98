"""Tags of images by numpy and safetensors alone: python examples/annotate.py FEATURES.npy [k]"""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).resolve().parent.parent
MODEL = json.loads((FOLDER / "model.json").read_text("utf-8"))
NAMES = np.array([*json.loads((FOLDER / "vocabulary.json").read_text("utf-8"))["names"], ""])
RULES: Any = None
if MODEL["rules"]:  # answers keep to the rules of the vocabulary
    sys.path.append(str(Path(__file__).resolve().parent))
    RULES = importlib.import_module("rules")
TOWER = load_file(FOLDER / "image_tower.safetensors")  # empty where features are the latents
KERNEL = load_file(FOLDER / "kernel.safetensors") if MODEL["kernel"] else {}
erf = np.vectorize(math.erf, otypes=[np.float32])
ACTIVATION: dict[str, Any] = {
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def standardised(x: np.ndarray) -> np.ndarray:
    """Raw features [B, D] as the tower and the kernel regression take them."""
    if not TOWER:
        return x
    power = MODEL["power"]
    if MODEL["power_blocks"]:  # features columns differ in it
        power = np.concatenate([np.full(dim, p, x.dtype) for dim, p in MODEL["power_blocks"]])
    return (np.sign(x) * np.abs(x) ** power - TOWER["mean"]) / TOWER["std"]


def near(x: np.ndarray) -> np.ndarray:
    """Gaussian kernel [B, R] of standardised features and the landmarks of the regression."""
    marks = KERNEL["landmark_RD"]
    x = x @ KERNEL["basis_Dd"] if "basis_Dd" in KERNEL else x
    square = (x * x).sum(1, keepdims=True) + (marks * marks).sum(1) - 2 * x @ marks.T
    return np.exp(-KERNEL["sharpness"] * np.maximum(square, 0))


def evidence(near_BR: np.ndarray, part: slice) -> np.ndarray:
    """What the kernel regression adds to z of some tags."""
    how = MODEL["kernel"]
    estimate = near_BR @ KERNEL["weight_RT"][:, part] + KERNEL["share_T"][part]
    noise = how["noise"] if "noise" in how else KERNEL["noise"][part]  # of all tags, or of each
    return how["factor"] * np.log(np.maximum(estimate, how["least"]) + noise)


def scores(z: np.ndarray) -> np.ndarray:
    """Of z [B, M] of each image's best tags, best first: probabilities where the model knows them."""
    if MODEL["link"] is None:
        return z
    a, b, *bends, constant = MODEL["link"]
    best = z[:, : MODEL["level_tags"]]
    top = best[:, :1]
    level = top + np.log(np.exp(best - top).sum(1, keepdims=True))
    odds = a * z + b * level + constant
    for knot, bend in zip(MODEL["knots"], bends, strict=False):
        odds = odds + bend * np.logaddexp(0, z - knot)
    return 1 / (1 + np.exp(-odds))


def latents(x: np.ndarray) -> np.ndarray:
    """float32 [B, L] of standardised features [B, D]."""
    if not TOWER:
        return x[:, : MODEL["L"]]
    latent: Any = x @ TOWER["linear.weight"].T if "linear.weight" in TOWER else 0
    if "hidden.weight" in TOWER:
        activation = ACTIVATION[MODEL["activation"]]
        hidden = x @ TOWER["hidden.weight"].T + TOWER["hidden.bias"]
        if "norm.weight" in TOWER:
            hidden = hidden - hidden.mean(1, keepdims=True)
            hidden = hidden / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
            hidden = hidden * TOWER["norm.weight"] + TOWER["norm.bias"]
        deep = activation(hidden) @ TOWER["latent.weight"].T + TOWER["latent.bias"]
        latent = latent + (activation(deep) if MODEL["latent_activation"] else deep)
    if MODEL["normalise"]:
        latent = latent / np.maximum(np.linalg.norm(latent, axis=1, keepdims=True), 1e-12)
    return latent


def annotate(images: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Names and scores [B, k] of the best k tags, best first, of raw features [B, D]."""
    depth = max(k + (RULES.SPARE if RULES else 0), MODEL["level_tags"])
    input_BD = standardised(np.asarray(images, np.float32))
    image_BL, near_BR = latents(input_BD), near(input_BD) if KERNEL else input_BD
    score, tag, start = image_BL[:, :0], np.zeros((len(image_BL), 0), np.int64), 0
    for path in sorted(FOLDER.glob("tags-*.safetensors")):  # a part of the tags at a time
        part = load_file(path)
        more = image_BL @ part["tag"].T + part["bias"]
        if KERNEL:
            more = more + evidence(near_BR, slice(start, start + more.shape[1]))
        score = np.hstack([score, more])
        tag = np.hstack([tag, np.broadcast_to(start + np.arange(more.shape[1]), more.shape)])
        best = np.argsort(-score, axis=1, kind="stable")[:, :depth]
        score, tag = np.take_along_axis(score, best, 1), np.take_along_axis(tag, best, 1)
        start += more.shape[1]
    score = scores(score)
    if RULES:  # where they leave no tag, its name is empty
        score, tag = RULES.by_rules(score, tag, min(k, len(NAMES) - 1))
    return NAMES[tag[:, :k]], score[:, :k]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tags of images, a line of JSON for each.")
    parser.add_argument("features", metavar="FEATURES.npy", help=f"numbers [B, {MODEL['D']}]")
    parser.add_argument("k", nargs="?", type=int, default=5, help="tags of an image (default: 5)")
    given = parser.parse_args()
    if given.k < 1:
        parser.error(f"k is {given.k}; it must be 1 or more")
    try:
        images = np.load(given.features)
    except (OSError, ValueError) as error:
        parser.error(f"{given.features}: cannot be read ({error})")
    shape = list(getattr(images, "shape", "?"))
    if len(shape) != 2 or shape[1] != MODEL["D"]:
        parser.error(f"{given.features} has shape {shape}; it must be [B, {MODEL['D']}]")
    for row in zip(*annotate(images, given.k), strict=True):
        print(json.dumps([[str(n), round(float(s), 6)] for n, s in zip(*row, strict=True)]))

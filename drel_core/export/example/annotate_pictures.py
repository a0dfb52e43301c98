"""Tags of pictures by numpy, Pillow and onnxruntime (or torch): python examples/annotate.py PICTURE..."""

import argparse
import importlib
import json
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


def pixels(path: str) -> np.ndarray:
    """uint8 [S, S, 3]: the whole picture, upright, squeezed into a square."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    way = Image.Resampling[MODEL["resample"].upper()]
    return np.asarray(picture.resize((MODEL["side"], MODEL["side"]), way))


def network() -> Any:
    """A function from uint8 pixels [B, S, S, 3] to float32 latents [B, L]."""
    if (FOLDER / "image_tower.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(FOLDER / "image_tower.onnx")
        return lambda pixels_BSS3: session.run(None, {"pixels": pixels_BSS3})[0]
    import torch

    module = torch.export.load(FOLDER / "image_tower.pt2").module()
    return lambda pixels_BSS3: module(torch.from_numpy(pixels_BSS3)).detach().numpy()


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


latents = network()


def annotate(images: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Names and scores [B, k] of the best k tags, best first, of uint8 pixels [B, S, S, 3]."""
    image_BL, depth = latents(images), max(k + (RULES.SPARE if RULES else 0), MODEL["level_tags"])
    score, tag, start = image_BL[:, :0], np.zeros((len(image_BL), 0), np.int64), 0
    for path in sorted(FOLDER.glob("tags-*.safetensors")):  # a part of the tags at a time
        part = load_file(path)
        more = image_BL @ part["tag"].T + part["bias"]
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
    parser = argparse.ArgumentParser(description="Tags of pictures, a line of JSON for each.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file that Pillow reads")
    given = parser.parse_args()
    try:
        images = np.stack([pixels(path) for path in given.pictures])
    except OSError as error:  # also of a file that is no picture
        parser.error(str(error))
    for path, *row in zip(given.pictures, *annotate(images), strict=True):
        print(path, json.dumps([[str(n), round(float(s), 6)] for n, s in zip(*row, strict=True)]))

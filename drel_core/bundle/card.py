"""The model card of a bundle: ``README.md``, for people who are given the folder and nothing else.

It says what was known when the bundle was written: figures of rows that training held out, none of a test
part, which is scored later. It is no part of the version's hash, and nothing reads it. Its front matter has
the fields that the Hugging Face hub knows.

Names of tags, stores and networks are a stranger's text: ``plain`` takes what Markdown and HTML would read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.tag_rules import TagRules
from drel_core.bundle.vocabulary import Vocabulary

CARD = "README.md"
_FRONT = """---
license: unknown
library_name: drel
pipeline_tag: image-classification
tags:
- image-annotation
- multi-label-classification
- drel
metrics:
- f1
- precision
- recall
---"""
_METHODS = {
    "drel": "image features and tags are mapped into one space, in which tags of an image lie near it "
    "(after He et al., ICMR 2015)",
    "wsabie": "a linear map of image features into the space of tag embeddings (Weston et al., 2011)",
    "knn": "tags of the nearest training images",
    "svm": "a linear support vector machine for each tag, its scores made probabilities",
    "cnn-softmax": "a pretrained network, trained further on pictures with a softmax over tags",
    "cnn-hinge": "a pretrained network, trained further on pictures with a pairwise hinge",
    "cnn-warp": "a pretrained network, trained further on pictures with WARP (Gong et al., 2014)",
    "popularity": "the most frequent tags, whatever the image: a floor for other models, of no use itself",
}
_WITH_DREL = (
    "With a checkout of DREL, where MODEL is the model's bundle, the folder with config.json:"
)
_FEW = 10
_SHOWN_TAGS = 10
_LONGEST = 60
_SETTINGS = {
    "drel": (
        *("epochs", "batch_size", "seed", "model.latent", "model.tag_tower", "model.metric"),
        *("loss.kind", "pool.candidates", "optim.optimiser", "optim.lr", "optim.weight_decay"),
        *("table.lr", "kernel.landmarks", "decision.held_out", "data.validation"),
    ),
    "knn": ("seed", "knn.k", "knn.weighting"),
    "svm": ("seed", "svm.C", "svm.folds", "svm.max_rows"),
    "cnn": (
        *("epochs", "batch_size", "seed", "cnn.backbone", "cnn.size", "optim.lr"),
        *("cnn.backbone_rate", "cnn.augment", "data.validation"),
    ),
    "popularity": (),
}
_SETTINGS["wsabie"] = _SETTINGS["drel"]


@dataclass(frozen=True)
class CardFacts:
    """What a card says that is in no file of the bundle, or costs much to find there.

    Attributes:
        rows: training rows of this run.
        decisions: what the model can decide by; none where its scores are no probabilities.
        calibration_error: expected calibration error on the rows that the calibration was fitted to.
        kept_rows: training rows that the bundle holds for updates.
        rules: of tags.
        kernel: the bundle has one.
    """

    rows: int
    decisions: tuple[str, ...] = ()
    calibration_error: float | None = None
    kept_rows: int = 0
    rules: TagRules = field(default_factory=TagRules)
    kernel: bool = True


def model_card(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> str:
    """The card as Markdown."""
    parts = (_what, _use, _data, _quality, _limits, _licences, _settings)
    lines = [line for part in parts for line in part(info, vocabulary, facts)]
    return "\n".join([_FRONT, "", *lines])


def plain(text: object, longest: int = _LONGEST) -> str:
    """A stranger's text so that Markdown and HTML show it and read nothing in it, on one line."""
    shown = "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(text)
    )
    if len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_{}\[\]#|~:@$])|(?<=www)(\.)", r"\\\1\2", shown, flags=re.IGNORECASE)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", shown)  # no list, no heading


def _what(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    yield from (f"# Image annotation model {info.version}", "")
    gives = "each with the probability that it belongs there" if facts.decisions else "best first"
    yield (
        f"Says which of {len(vocabulary):,} tags belong to an image, {gives}. It was trained with DREL on "
        f"{_day(info)}."
    )
    yield from ("", "| | |", "|---|---|")
    yield f"| method | {info.method}: {_METHODS[info.method]} |"
    yield f"| takes | {_takes(info)} |"
    yield f"| gives | {_gives(facts)} |"
    if facts.rules:
        yield f"| keeps to | vocabulary.yaml: {_rules(facts.rules)} |"
    yield f"| version | {info.version}, a hash of the model's files; every answer of the scorer names it |"
    if info.parent is not None:
        yield f"| made from | version {info.parent}{_made(info)} |"
    yield f"| written by | {plain(info.written_by or 'unknown', 90)} |"
    yield ""


def _made(info: BundleInfo) -> str:
    """How this version came from its parent."""
    edited = info.content.get("edited")
    if not isinstance(edited, dict):
        return ", which learned more: see Training data"
    kinds = ("merged", "renamed", "removed", "split")
    said = [f"{plain(edited[kind])} {kind}" for kind in kinds if edited.get(kind)]
    return f", whose tags were edited: {', '.join(said) or 'other rules'}; nothing was learned"


def _day(info: BundleInfo) -> str:
    found = re.match(r"\d{4}-\d\d-\d\d", info.trained_at)
    return found[0] if found else "a day that is not known"


def _rules(rules: TagRules) -> str:
    counts = {
        "other spellings": len(rules.aliases),
        "tags that imply others": len(rules.implies),
        "groups": len(rules.groups),
        "blocked tags": len(rules.blocked) - len(rules.split),
        "split tags": len(rules.split),
    }
    parts = [f"{name}: {count:,}" for name, count in counts.items() if count]
    if rules.languages:
        parts.append(f"display names: {plain(', '.join(rules.languages))}")
    return "; ".join(parts)


def _takes(info: BundleInfo) -> str:
    if info.pictures is not None:
        side = info.pictures.get("size")
        return f"pictures, which it squeezes into {plain(side)} x {plain(side)} pixels"
    columns = [f"`{_code(block.name)}` ({block.dim} numbers)" for block in info.blocks]
    origin = _origins(info)
    said = f"features of an image, {', then '.join(columns)}"
    return (
        f"{said}, made by {origin}"
        if origin
        else f"{said}; how they were made is not known to DREL"
    )


def _code(text: str) -> str:
    """For a piece of code inside a table."""
    return re.sub(r"[`|\\\n<>&]", "\N{REPLACEMENT CHARACTER}", text)[:_LONGEST]


def _each_origin(info: BundleInfo) -> list[dict[str, Any]]:
    """What the training store's manifest says of each features column; of pictures, of the network."""
    if info.pictures is not None:
        backbone = ((info.config or {}).get("cnn") or {}).get("backbone")
        return [{"kind": "cnn", "name": backbone or "a network"}]
    features = info.features or {}
    return list(features["columns"].values()) if "columns" in features else [features]


def _origins(info: BundleInfo) -> str:
    named = []
    for one in _each_origin(info):
        if one.get("kind") == "cnn":
            named.append(f"the network {plain(_network(one))}")
        elif one.get("kind") == "lowlevel":
            named.append("six low-level descriptors (colour, texture, shape; `jobs.ingest`)")
    return " and ".join(named)


def _network(origin: dict[str, Any]) -> str:
    """Its name; of a file the name alone, without the folders of a machine."""
    kind, mark, name = str(origin.get("name", "")).partition(":")
    return f"{kind}:{_last(name)}" if kind == "file" and mark else f"{kind}{mark}{name}"


def _last(path: str) -> str:
    """The last part of a path or URI, without a query."""
    return path.partition("?")[0].replace("\\", "/").rstrip("/").rpartition("/")[2]


def _gives(facts: CardFacts) -> str:
    if not facts.decisions:
        return "tags with scores, which order tags but are no probabilities; decision `top`"
    return f"tags with probabilities; decisions {', '.join(f'`{one}`' for one in facts.decisions)}"


def _use(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    store = "STORE is a Parquet file or folder of such features, as `jobs.ingest` writes it."
    if info.pictures is not None:
        store = (
            "STORE is a Parquet file or folder of pictures, as `docs/reference/formats.md` says."
        )
    yield from ("## Use", "", _WITH_DREL, "")
    yield "    python -m jobs.annotate --model MODEL --data STORE --out TAGS    # many images"
    yield "    python -m jobs.serve --model MODEL                               # over HTTP"
    yield "    python -m jobs.evaluate --model MODEL --data STORE               # figures on your images"
    if info.method != "knn":
        yield "    python -m jobs.export --model MODEL --out EXPORTED               # without DREL"
    yield from ("", f"{store} Loading the model runs no code of its files.", "")
    if "macro" in facts.decisions:
        yield (
            "`--decide top` gives the most probable tags. `--decide macro` finds rare tags more often"
            + (
                ", `--decide threshold` says as many tags as are worth saying."
                if "threshold" in facts.decisions
                else "."
            )
        )
        yield ""


def _data(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    content, counts = info.content, vocabulary.counts
    yield from ("## Training data", "", "| | |", "|---|---|")
    path = ((info.config or {}).get("data") or {}).get("train")
    if info.parent is None:
        yield f"| store | {plain(_last(str(path))) if path else 'not known'} |"
        yield f"| images | {facts.rows:,} |"
    else:
        images = info.images or facts.rows
        said = f"{images:,} over this version and those before it" if images else "not known"
        yield f"| images | {said} |"
        yield f"| new in this version | {content.get('new_images', 0):,} images |"
        yield f"| new tags in this version | {content.get('new_tags', 0):,} |"
    yield f"| tags | {len(vocabulary):,}, on {_mean(counts, info, facts)} |"
    few, unseen = int((counts < _FEW).sum()), int((counts == 0).sum())
    yield f"| tags with fewer than {_FEW} images | {few:,} |"
    if unseen:
        yield f"| tags without any image, by name alone | {unseen:,} |"
    best = np.argsort(-counts, kind="stable")[:_SHOWN_TAGS]
    named = ", ".join(f"{plain(vocabulary.names[tag])} ({counts[tag]:,})" for tag in best)
    yield f"| most frequent tags | {named} |"
    if facts.kept_rows:
        yield (
            f"| kept in this folder | {facts.kept_rows:,} training rows (ids, features, tags) in "
            "`reservoir.parquet`, for `jobs.update` |"
        )
    if info.method == "knn":
        kept = f"all {facts.rows:,} training rows (features, tags): they are the model"
        yield f"| kept in this folder | {kept} |"
    yield ""


def _mean(counts: np.ndarray, info: BundleInfo, facts: CardFacts) -> str:
    images = (info.images or facts.rows) if info.parent is not None else facts.rows
    if not images:
        return f"{counts.sum():,} pairs of image and tag"
    return f"average {counts.sum() / images:.1f} an image"


def _quality(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    yield from ("## How good it is", "")
    k = info.content.get("k", 5)
    found = [one for name in ("left_out", "watch") if isinstance(one := info.train.get(name), dict)]
    if found:
        yield f"Measured while it was trained, by the {k} most probable tags of an image (`top`):"
        yield from (
            "",
            "| | first tag right | F1 | tags found at least once | overall F1 |",
            "|---|---|---|---|---|",
        )
        for one in found:
            yield _row(f"{one['rows']:,} {one['kind']}", one)
            yield _row("the most frequent tags on the same", one["floor"])
        yield from ("", "F1 is the mean over tags, overall F1 over all pairs of image and tag.")
        if any(one["kind"] == "training rows" for one in found):
            yield "Figures of training rows say little of new images."
        if any(one["kind"] == "rows left out of a fit" for one in found):
            yield (
                "Rows left out of a fit were scored by a model that had not seen them; this one has learned "
                "from them too."
            )
    else:
        yield "Nothing was measured while it was trained."
    yield ""
    if facts.calibration_error is not None:
        yield (
            f"Probabilities above .05 are off by {facts.calibration_error:.3f} on average (expected "
            "calibration error), on the rows that they were fitted to."
        )
        yield ""
    yield (
        "Figures of a test part came after this card was written: `metrics.json` beside the folder has them, "
        "with each decision, where training was given `--data.test`. `jobs.evaluate` makes them for your "
        "images."
    )
    if warnings := info.train.get("warnings"):
        yield from ("", "Training warned:", "")
        yield from (f"- {plain(one, 500)}" for one in warnings)
    yield ""


def _row(what: str, one: dict[str, Any]) -> str:
    return f"| {what} | {one['P@1']:.3f} | {one['F1']:.3f} | {one['N+']:,} | {one['oF1']:.3f} |"


def _limits(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    few = int((vocabulary.counts < _FEW).sum())
    yield from ("## Limits", "")
    yield "- It knows its own tags alone: what has no tag here is never said."
    if few:
        yield (
            f"- {few:,} of {len(vocabulary):,} tags have fewer than {_FEW} training images. What it says of "
            "these is often wrong."
        )
    yield (
        "- It repeats its training tags: what people left out there, or said wrongly or unfairly, it "
        "leaves out or says as well."
    )
    yield (
        "- Other images than those of training (another camera, subject or style, another network or size "
        "before it) get worse tags, and probabilities that are off. `GET /v1/drift` of the scorer watches "
        "for it."
    )
    yield (
        "- Do not decide by it alone where people are concerned: to recognise or watch them, in medicine, "
        "law, hiring or insurance, or to remove what they publish."
    )
    if info.method in ("drel", "wsabie"):
        yield (
            "- Corrections that users give (`POST /v1/feedback`) reach the model only by `jobs.update`, "
            "which makes a new version. Who may correct, may change what it says."
        )
    if facts.kept_rows or info.method == "knn":
        yield "- Whoever has this folder has the training rows that are kept in it."
    yield ""


def _licences(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    yield from ("## Licences", "")
    yield "- The model: to be chosen by who trained it; the training images and tags may set terms."
    for one in _each_origin(info):
        if one.get("kind") != "cnn":
            continue
        name = _network(one)
        if name == "efficientnet-lite0":
            yield "- The network EfficientNet-Lite0 and its weights: Apache-2.0."
        else:
            yield f"- The network {plain(name)} and its weights: not known to DREL; look it up."
    yield from ("- DREL: Apache-2.0.", "")


def _settings(info: BundleInfo, vocabulary: Vocabulary, facts: CardFacts) -> Iterator[str]:
    names = _SETTINGS[info.method.partition("-")[0]]
    values = [(name, _value(info.config or {}, name)) for name in names]
    known = [(name, value) for name, value in values if value is not None]
    yield from ("## How it was trained", "")
    if known:
        yield from ("| option | value |", "|---|---|")
        yield from (f"| `--{name}` | {plain(value)} |" for name, value in known)
        yield ""
    if dict(known).get("kernel.landmarks") and not facts.kernel:
        yield from ("The kernel was left out.", "")
    seconds, workers = info.train.get("seconds"), info.train.get("workers")
    if seconds is not None and workers is not None:
        yield f"It took {seconds:,.0f} s with {_counted(int(workers), 'worker')}. " + _EVERY
    else:
        yield _EVERY
    yield ""


_EVERY = "`config` in config.json has every option."


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _value(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return _network({"name": value})
    return value

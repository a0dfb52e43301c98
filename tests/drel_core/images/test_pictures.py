"""Every kind of picture that people have, and files that only look like one."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageOps

from drel_core.images.backbone import Preprocessing
from drel_core.images.pictures import BadPicture, decode, difference_hash


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (height, 1))] * 3, axis=2)
    pixels[:, :, 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def test_plain_pictures_come_out_as_they_went_in() -> None:
    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        picture = decode(encoded(gradient(), kind, **options))
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(gradient()))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    picture = decode(encoded(gradient(40, 24), "PNG", exif=exif))
    assert picture.size == (24, 40)
    upright = gradient(40, 24).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_what_pillow_makes_of_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(40, 24), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(upright))


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Big-endian EXIF of (tag, type, count, value or its four bytes), as a camera writes it."""
    head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries))
    at, fields, values = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in entries:
        where = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", at + len(values))
        fields += struct.pack(">HHI", tag, kind, count) + where
        values += value if len(value) > 4 else b""
    return head + fields + bytes(4) + values


ORIENTATION = (0x0112, 3, 1, struct.pack(">H", 6))


@pytest.mark.parametrize(
    ("entry", "turned"),
    [
        ((0x011A, 10, 1, struct.pack(">ii", -1, 0)), True),  # XResolution as SRATIONAL
        ((0x011A, 2, 5, b"none\0"), True),  # as text
        ((0x8769, 3, 1, b"\xff\xff"), True),  # an EXIF folder of another type, out of the block
        ((0x8825, 4, 1, b"\xff\xff\xff\xff"), True),
        ((0x0112, 2, 2, b"6\0"), False),  # the orientation itself as text
        ((0x0112, 3, 9, struct.pack(">I", 0xFFFF)), False),  # and out of the block
    ],
)
def test_only_pixels_can_make_a_picture_damaged(
    entry: tuple[int, int, int, bytes], turned: bool
) -> None:
    entries = [ORIENTATION, entry] if turned else [entry]
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(gradient(40, 24), kind, exif=exif_block(*entries))
        assert decode(data).size == ((24, 40) if turned else (40, 24)), kind


def test_too_little_memory_says_nothing_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(gradient())
    for name in ("open", "new"):
        with monkeypatch.context() as patch:
            patch.setattr(Image.core, "new", no_memory) if name == "new" else patch.setattr(
                Image, "open", no_memory
            )
            with pytest.raises(MemoryError):
                decode(data)


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_modes_become_rgb() -> None:
    grey = gradient().convert("L")
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey)))[:, :, 0], np.asarray(grey))
    palette = decode(encoded(gradient().quantize(16), "GIF"))
    assert palette.mode == "RGB"
    cmyk = decode(encoded(gradient().convert("CMYK"), "JPEG", quality=95))
    assert abs(np.asarray(cmyk).astype(int) - np.asarray(gradient()).astype(int)).mean() < 6
    bilevel = decode(encoded(gradient().convert("1"), "PNG"))
    assert set(np.unique(np.asarray(bilevel))) <= {0, 255}


def test_sixteen_bits_scale_to_eight() -> None:
    grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
    picture = decode(encoded(Image.fromarray(grey), "PNG"))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 127, 255]
    floats = decode(encoded(Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)), "TIFF"))
    assert np.asarray(floats)[0, :, 0].tolist() == [0, 127, 255]


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    assert np.asarray(decode(encoded(clear)))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_first_frame_of_an_animation_and_one_pixel() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0]
    assert decode(encoded(Image.new("RGB", (1, 1), "green"))).size == (1, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not a picture"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 40, "not a picture"),
        (encoded(gradient(400, 300), "JPEG")[:2000], "damaged"),
        (encoded(gradient(400, 300), "PNG")[:800], "damaged"),
        (encoded(gradient(100, 100), "TIFF")[:2000], "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "not a picture|damaged"),
    ],
)
def test_bad_files_give_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPicture, match=reason):
        decode(data)


def test_huge_pictures_are_refused_before_they_are_decoded() -> None:
    data = encoded(Image.new("1", (60000, 30000)), "PNG")
    assert len(data) < 1_000_000
    with pytest.raises(BadPicture, match="more than 64000000 pixels"):
        decode(data)
    with pytest.raises(BadPicture, match="40 x 24 is more than 500 pixels"):
        decode(encoded(gradient()), max_pixels=500)


def test_difference_hash_survives_size_and_compression() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((180, 160), Image.Resampling.BICUBIC)
    small = decode(encoded(picture.resize((90, 80)), "JPEG", quality=80))
    assert (difference_hash(picture) ^ difference_hash(small)).bit_count() <= 2
    assert (difference_hash(picture) ^ difference_hash(gradient())).bit_count() > 10


def test_postscript_is_never_run() -> None:
    with pytest.raises(BadPicture, match="not a picture that Pillow reads"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_a_batch_of_pictures_becomes_squares_and_faults_keep_their_places() -> None:
    preprocessing = Preprocessing(size=4)
    red = Image.new("RGB", (7, 3), (255, 0, 0))

    def load(source: Image.Image | str | None) -> Image.Image | None:
        if isinstance(source, str):
            raise BadPicture(source)
        return source

    faults: dict[int, BadPicture] = {}
    pixels_BSS3 = preprocessing.squares([red, None, "torn", red], load, faults)
    assert pixels_BSS3.shape == (4, 4, 4, 3) and pixels_BSS3.dtype == np.uint8
    assert (pixels_BSS3[[0, 3]] == [255, 0, 0]).all() and not pixels_BSS3[[1, 2]].any()
    assert {place: str(error) for place, error in faults.items()} == {2: "torn"}
    with pytest.raises(BadPicture, match="torn") as refused:
        preprocessing.squares([red, None, "torn", "worse"], load)
    assert refused.value.index == 2
    assert preprocessing.squares([], load).shape == (0, 4, 4, 3)
    assert Preprocessing.from_dict(json.loads(json.dumps(asdict(preprocessing)))) == preprocessing

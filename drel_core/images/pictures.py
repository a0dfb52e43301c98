"""Decode pictures of any common format to RGB, or say why one cannot be used."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

MAX_PIXELS = 64_000_000
# Only formats that Pillow decodes itself: it would pass an EPS file, whatever its name, to Ghostscript.
Image.init()
_FORMATS: list[str] = [
    kind
    for kind in (
        "JPEG",
        "PNG",
        "GIF",
        "BMP",
        "DIB",
        "TIFF",
        "WEBP",
        "AVIF",
        "JPEG2000",
        "MPO",
        "PPM",
        "TGA",
        "ICO",
    )
    if kind in Image.OPEN
]
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation (CIPA DC-008, tag 0x0112)."""


class BadPicture(ValueError):
    """A picture that cannot be used; the message is the reason, without its name.

    Attributes:
        index: its place in the batch, where it is one of several; else -1.
    """

    index = -1


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB, turned as its EXIF orientation says.

    Of an animation the first frame is taken. Transparent parts become white. 16-bit greys are scaled from
    their full range, float greys from their smallest to their largest value. CMYK and palettes are
    converted.

    Raises:
        BadPicture: empty, no picture, truncated, damaged, or more than ``max_pixels`` pixels.
        MemoryError: too little memory, which says nothing of the picture.
    """
    if not data:
        raise BadPicture("empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about large pictures and odd metadata: both are handled here
        try:
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        except MemoryError:
            raise
        except Image.DecompressionBombError:
            raise BadPicture(f"more than {max_pixels} pixels") from None
        except Exception as error:
            raise BadPicture(_reason(error, "not a picture that Pillow reads")) from None
        width, height = picture.size
        if width * height > max_pixels:
            raise BadPicture(f"{width} x {height} is more than {max_pixels} pixels")
        try:
            picture.load()
            return _rgb(_upright(picture))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data
            raise BadPicture(_reason(error, "damaged")) from None


def small_jpeg(data: bytes, side: int, quality: int) -> bytes:
    """A copy of a picture for people to look at: a JPEG of at most ``side`` pixels a side, without what
    cameras write into files. It is encoded again, whatever it was.

    Raises:
        BadPicture: it is none.
    """
    picture = decode(data)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. No other tag is looked at, and what cannot be read says nothing:
    ``ImageOps.exif_transpose`` writes all tags again, which fails for some that cameras write."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata of good pixels
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _reason(error: Exception, otherwise: str) -> str:
    text = str(error).strip().splitlines()
    if isinstance(error, Image.UnidentifiedImageError) or not text:
        return otherwise
    return f"{otherwise}: {text[0][:150]}"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith(("I", "F")):
        grey_HW = np.asarray(picture).astype(np.float64)
        if not np.isfinite(grey_HW).all():
            raise ValueError("pixels that are no numbers")
        top = 65535.0 if "16" in picture.mode or grey_HW.max(initial=0) > 255 else 255.0
        low, high = (0.0, top) if picture.mode != "F" else (grey_HW.min(), grey_HW.max())
        scaled_HW = (grey_HW - low) * (255.0 / max(high - low, 1e-12))
        return Image.fromarray(scaled_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")


def difference_hash(picture: Image.Image) -> int:
    """dHash (Krawetz, 2013), 64 bits: whether brightness rises between neighbours of a 9 x 8 thumbnail.

    The same picture in another size or compression has the same hash, or nearly so.
    """
    grey_HW = np.asarray(
        picture.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16
    )
    bits = (grey_HW[:, 1:] > grey_HW[:, :-1]).reshape(-1)
    return int(np.packbits(bits).view(">u8")[0])

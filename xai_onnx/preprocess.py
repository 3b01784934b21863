"""From a picture to the model's input tensor, exactly as the recipe in the manifest says.

Resizing is Pillow's (antialiased), and the rounding of sizes and crop offsets is torchvision's, so
that a recipe taken from training code gives the tensor of the training code. Colour profiles are
not applied, as torchvision, timm and Keras apply none.
"""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xai_onnx.errors import ImageError
from xai_onnx.recipe import Preprocess

MAX_PIXELS = 100_000_000
# Named, because Pillow's full list has formats (EPS) that start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_warning_filters = threading.Lock()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture and what the model gets of it.

    Attributes:
        tensor: float32, [C, H, W] or [H, W, C] as the recipe's layout says; C is 3, or 1 for GRAY.
        image: the whole picture, uint8 RGB, [H0, W0, 3].
        box: left, top, right, bottom of the part that the model sees, in pixels of `image`.
        seen: that part at the tensor's size, uint8 [H, W, 3] RGB, or [H, W, 1] for GRAY.
    """

    tensor: NDArray[np.float32]
    image: NDArray[np.uint8]
    box: tuple[float, float, float, float]
    seen: NDArray[np.uint8]


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture file as it is meant to be seen.

    The EXIF orientation is applied, transparency is laid on white, grey becomes RGB, 16-bit grey
    is rounded to 8 bits, and an animation gives its first frame.

    Args:
        path: a file in one of `FORMATS`.

    Returns:
        uint8 RGB, [H, W, 3].

    Raises:
        ImageError: missing, not a picture, truncated or damaged, more than `MAX_PIXELS`, or of
            pixels without a known range (32-bit integer or float).
    """
    where = os.fspath(path)
    try:
        with _open(where) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                size = f"{picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}"
                raise ImageError(f"{where}: too large: {size}; give a smaller picture")
            return np.asarray(_to_rgb(ImageOps.exif_transpose(picture), where, picture.format))
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise ImageError(
            f"{where}: can't be opened: {error.strerror}; give the path of a picture"
        ) from error
    except UnidentifiedImageError:
        raise ImageError(
            f"{where}: not a picture; give a file in one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{where}: too large: {error} Give a smaller picture") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error ...
        reason = " ".join(str(error).split())
        raise ImageError(
            f"{where}: can't be read, perhaps it is truncated: {reason}; get a whole copy of it"
        ) from error


def prepare(image: str | os.PathLike[str] | NDArray[Any], recipe: Preprocess) -> Prepared:
    """Make the model's input tensor, ``(pixel * scale - mean) / std``.

    Each value is the float64 result rounded once to float32. A picture is made grey (for GRAY)
    before it is resized, with the ITU-R 601 weights, as torchvision's Grayscale.

    Args:
        image: path of a picture, or its pixels: uint8 RGB [H0, W0, 3] or grey [H0, W0].
        recipe: what to do.

    Raises:
        ImageError: the file can't be read (see `read_image`), the array has another type or shape,
            or the picture is so long and narrow that resizing it exceeds `MAX_PIXELS`.
    """
    pixels = _checked(image) if isinstance(image, np.ndarray) else read_image(image)
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    if recipe.color == "GRAY":
        picture = picture.convert("L")
    interpolation = _INTERPOLATIONS[recipe.interpolation]
    if recipe.shortest_side is None:
        seen = picture.resize((recipe.width, recipe.height), interpolation)
        box = (0.0, 0.0, float(width), float(height))
    else:
        new_width, new_height = _resized(width, height, recipe.shortest_side)
        if new_width * new_height > MAX_PIXELS:
            raise ImageError(
                f"the picture of {width}x{height} pixels would become {new_width}x{new_height} "
                f"with its short side at {recipe.shortest_side}, above {MAX_PIXELS:,} pixels; "
                "cut the part of interest out of it"
            )
        left = round((new_width - recipe.width) / 2.0)
        top = round((new_height - recipe.height) / 2.0)
        right, bottom = left + recipe.width, top + recipe.height
        resized = picture.resize((new_width, new_height), interpolation)
        seen = resized.crop((left, top, right, bottom))
        x, y = width / new_width, height / new_height
        box = (left * x, top * y, right * x, bottom * y)
    cut = np.atleast_3d(np.asarray(seen))
    return Prepared(_to_tensor(cut, recipe), pixels, box, cut)


def _open(path: str) -> Image.Image:
    """Read the header only, without Pillow's warning about sizes below our own limit."""
    # The filters of `warnings` are the process's: two threads restoring them would mix them up.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _to_rgb(picture: Image.Image, where: str, file_format: str | None) -> Image.Image:
    # Some versions of Pillow open 16-bit PNG and PPM as 32-bit "I", still in 0..65535.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in ("PNG", "PPM")):
        wide = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ImageError(
            f"{where}: its pixels are 32-bit {'integers' if picture.mode == 'I' else 'floats'} "
            "without a known range; convert it to 8 bits"
        )
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    """The array as RGB, if it is a picture."""
    shape_fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not shape_fits or image.size == 0:
        raise ImageError(
            "an image array must be uint8 RGB [height, width, 3] or grey [height, width], not "
            f"{image.dtype} {list(image.shape)}; for a tensor that is ready for the model say "
            "preprocessed=True"
        )
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _resized(width: int, height: int, shortest_side: int) -> tuple[int, int]:
    """Width and height with the shorter at `shortest_side`, rounded as torchvision rounds."""
    if width <= height:
        return shortest_side, int(shortest_side * height / width)
    return int(shortest_side * width / height), shortest_side


def _to_tensor(pixels: NDArray[np.uint8], recipe: Preprocess) -> NDArray[np.float32]:
    """Look each of the 256 possible values up: exact, and faster than arithmetic on the picture."""
    values = np.arange(256, dtype=np.float64)[:, None] * recipe.scale
    table = ((values - recipe.mean) / recipe.std).astype(np.float32)
    if recipe.color == "BGR":
        pixels = pixels[..., ::-1]
    channels = [table[:, c][pixels[..., c]] for c in range(pixels.shape[2])]
    return np.stack(channels, axis=0 if recipe.layout == "NCHW" else 2)

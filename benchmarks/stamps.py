"""Photo cut-outs of Tux Paint pasted on backgrounds: what is the object is known to the pixel.

The stamps (Debian package tuxpaint-stamps-default, GPL-2) are read where they are installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

STAMPS = Path("/usr/share/tuxpaint/stamps")
SIDE = 224
# The longer side of an object, as a share of the picture's.
SMALLEST, LARGEST = 0.75, 0.95
OPAQUE = 128

FOLDERS = {
    "bird": ("animals/birds",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "mammal": ("animals/mammals",),
    "fish or insect": ("animals/fish", "animals/insects"),
    "instrument": ("hobbies/music",),
    "vehicle": ("vehicles",),
}
DRAWN = {"cartoon", "toys", "plastic"}  # folders of what is no photo
BACKGROUNDS = (
    "grass",
    "gravel",
    "brick",
    "moon",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
)


def stamps(folder: Path = STAMPS) -> tuple[list[Path], NDArray[np.int64]]:
    """The photos, and the category of each."""
    paths, classes = [], []
    for number, folders in enumerate(FOLDERS.values()):
        found = sorted(path for name in folders for path in (folder / name).rglob("*.png"))
        photos = [path for path in found if not DRAWN & set(path.parts)]
        paths += photos
        classes += [number] * len(photos)
    return paths, np.array(classes, np.int64)


def backgrounds() -> list[NDArray[np.uint8]]:
    """Photos of no category, RGB."""
    photos = [np.asarray(getattr(data, name)()) for name in BACKGROUNDS]
    return [photo if photo.ndim == 3 else photo[..., None].repeat(3, axis=2) for photo in photos]


def composites(
    paths: Sequence[Path], each: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """`each` pictures of every stamp, [N, 224, 224, 3], and where the object is, [N, 224, 224]."""
    rng = np.random.default_rng(seed)
    behind = backgrounds()
    pictures = np.empty((len(paths) * each, SIDE, SIDE, 3), np.uint8)
    masks = np.empty(pictures.shape[:3], np.bool_)
    for n, path in enumerate(paths):
        stamp = Image.open(path).convert("RGBA")
        stamp = stamp.crop(stamp.getchannel("A").getbbox())
        for k in range(each):
            ground = Image.fromarray(_crop(behind[rng.integers(len(behind))], rng)).convert("RGBA")
            object_ = _placed(stamp, rng)
            made = Image.alpha_composite(ground, object_)
            pictures[n * each + k] = np.asarray(made.convert("RGB"))
            masks[n * each + k] = np.asarray(object_.getchannel("A")) >= OPAQUE
    return pictures, masks


def _crop(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = (int(rng.integers(side - SIDE + 1)) for side in photo.shape[:2])
    return photo[y : y + SIDE, x : x + SIDE]


def _placed(stamp: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A stamp on a transparent picture: its size, place and direction are drawn."""
    scale = rng.uniform(SMALLEST, LARGEST) * SIDE / max(stamp.size)
    size = [max(1, round(side * scale)) for side in stamp.size]
    small = stamp.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if rng.integers(2):
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(
        small, (int(rng.integers(SIDE - size[0] + 1)), int(rng.integers(SIDE - size[1] + 1)))
    )
    return canvas

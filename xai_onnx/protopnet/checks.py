"""Does a match hold? Its box covered up, and the picture disturbed (Hoffmann et al. 2021).

A box is a location in the latent grid, and a receptive field may be the whole picture. Whether the
pixels in the box make the match is tried out: they, and then all others, are covered with the
picture's mean colour. And a match that JPEG or faint noise moves elsewhere is none to rely on.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xai_onnx.errors import ImageError
from xai_onnx.preprocess import prepare, read_image
from xai_onnx.protopnet.explanation import PrototypeExplanation, PrototypeMatch

if TYPE_CHECKING:
    from xai_onnx.model import Model

JPEG_QUALITIES = (90, 75, 50)
NOISES = (4, 8)  # standard deviation, of 255
SEED = 0

Picture = str | os.PathLike[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class Occlusion:
    """The largest similarity of one prototype, before and after covering pixels.

    Attributes:
        prototype: its index.
        similarity: on the whole picture.
        inside_covered: with the match's box covered.
        outside_covered: with everything but the box covered.
        box_share: of the box in what the model sees, in [0, 1].
    """

    prototype: int
    similarity: float
    inside_covered: float
    outside_covered: float
    box_share: float

    @property
    def drop_inside(self) -> float:
        """What covering the box takes from the similarity."""
        return self.similarity - self.inside_covered

    @property
    def drop_outside(self) -> float:
        """What covering everything else takes from it."""
        return self.similarity - self.outside_covered

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        drops = {"drop_inside": self.drop_inside, "drop_outside": self.drop_outside}
        return {**asdict(self), **drops}


@dataclass(frozen=True)
class Stability:
    """What one disturbance of the picture does to an explanation.

    Attributes:
        disturbance: e.g. ``"JPEG quality 75"``.
        same_class: whether the predicted class stays.
        score_change: of the class explained.
        similarity_change: the largest, among the matches, up or down.
        moved: the farthest that a match moves, in cells of the similarity map.
        same_prototypes: share of the matches that are among them still.
    """

    disturbance: str
    same_class: bool
    score_change: float
    similarity_change: float
    moved: float
    same_prototypes: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def occlusion(
    model: Model, image: Picture, target: int | str | None = None, count: int = 5
) -> list[Occlusion]:
    """Cover the boxes of the first `count` matches, one after the other, and all but them.

    Args:
        model: a ProtoPNet whose preprocessing is known.
        image: a path, or uint8 RGB [H0, W0, 3].
        target: the class explained; ``None``: the predicted one.
        count: matches to check.

    Raises:
        XaiOnnxError: as `Model.explain`; and the model's preprocessing isn't known.
    """
    explanation: PrototypeExplanation = model.explain(image, target)
    assert model.preprocess is not None  # or `explain` had refused
    tensor = prepare(image, model.preprocess).tensor
    planes = tensor if model.preprocess.layout == "NCHW" else np.moveaxis(tensor, 2, 0)
    mean = planes.mean((1, 2), keepdims=True)
    matches = explanation.matches[:count]
    variants, shares = [], []
    for match in matches:
        inside = _mask(explanation, match)
        shares.append(float(inside.mean()))
        variants += [np.where(inside, mean, planes), np.where(inside, planes, mean)]
    stack: Any = np.stack(variants).astype(np.float32)
    if model.preprocess.layout == "NHWC":
        stack = np.moveaxis(stack, 1, 3)
    covered = model.explain(stack, explanation.target, preprocessed=True)
    return [
        Occlusion(
            match.prototype,
            match.similarity,
            float(covered[2 * index].similarities[match.prototype]),
            float(covered[2 * index + 1].similarities[match.prototype]),
            shares[index],
        )
        for index, match in enumerate(matches)
    ]


def stability(model: Model, image: Picture, target: int | str | None = None) -> list[Stability]:
    """Explain the picture again behind JPEG of `JPEG_QUALITIES` and Gaussian noise of `NOISES`.

    Args:
        model: a ProtoPNet whose preprocessing is known.
        image: a path, or uint8 RGB [H0, W0, 3].
        target: the class explained; ``None``: the predicted one.

    Raises:
        XaiOnnxError: as `Model.explain`.
    """
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    if pixels.ndim != 3:
        raise ImageError("stability is tried on an RGB picture [height, width, 3]")
    disturbed = {f"JPEG quality {quality}": _jpeg(pixels, quality) for quality in JPEG_QUALITIES}
    disturbed |= {f"noise {sigma}/255": _noisy(pixels, sigma) for sigma in NOISES}
    before: PrototypeExplanation = model.explain(pixels, target)
    after = model.explain(list(disturbed.values()), before.target)
    return [_compared(name, before, then) for name, then in zip(disturbed, after, strict=True)]


def _compared(name: str, before: PrototypeExplanation, after: PrototypeExplanation) -> Stability:
    chosen = [match.prototype for match in before.matches]
    kept = {match.prototype for match in after.matches}
    wide = before.matches[0].similarity_map.shape[1]
    steps = [
        np.subtract(divmod(int(before.locations[j]), wide), divmod(int(after.locations[j]), wide))
        for j in chosen
    ]
    change = after.similarities[chosen] - before.similarities[chosen]
    return Stability(
        disturbance=name,
        same_class=bool(before.scores.argmax() == after.scores.argmax()),
        score_change=after.score - before.score,
        similarity_change=float(np.abs(change).max()),
        moved=max(float(np.hypot(*step)) for step in steps),
        same_prototypes=sum(j in kept for j in chosen) / len(chosen),
    )


def _mask(explanation: PrototypeExplanation, match: PrototypeMatch) -> NDArray[np.bool_]:
    """The match's box in the input, [H, W]."""
    height, width = explanation.input_size
    left, top, right, bottom = explanation.box or (0.0, 0.0, float(width), float(height))
    x, y = width / (right - left), height / (bottom - top)
    mask = np.zeros((height, width), bool)
    rows = slice(round((match.box[1] - top) * y), round((match.box[3] - top) * y))
    mask[rows, round((match.box[0] - left) * x) : round((match.box[2] - left) * x)] = True
    return mask


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    with Image.open(stream, formats=("JPEG",)) as picture:
        return np.asarray(picture.convert("RGB"))


def _noisy(pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(SEED).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)

"""A guess at a model's preprocessing, by the model's own confidence.

Photos are classified under every preset, in both colour orders. A model is most sure of itself
under the preprocessing that it was trained with, as a rule; a guess is all that this is, and is
only ever shown, never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np

from xai_onnx import recipe
from xai_onnx.batch import Batch, ImageInput
from xai_onnx.recipe import PRESETS, Preprocess
from xai_onnx.session import Session

PHOTOS = ("coffee", "astronaut")
FREE_SIZE = 224  # for models that leave height and width free


@dataclass(frozen=True)
class Suspicion:
    """A preprocessing, and how sure the model is of itself under it: entropy in bits."""

    preset: str
    color: str
    entropy: float


def suspicions(session: Session, image: ImageInput, scores: str) -> list[Suspicion]:
    """Every preset and colour order, the most likely first; empty where that can't be told.

    It can't for inputs of other than 3 channels or of integers, for models that take more than a
    picture, nor from scores that are NaN.

    Args:
        session: of the plain model.
        image: its input.
        scores: the output that holds the class scores.
    """
    if image.channels != 3 or image.dtype.kind == "u" or len(session.inputs) > 1:
        return []
    found = []
    with resources.as_file(resources.files("xai_onnx") / "assets") as assets:
        photos = [str(assets / f"{photo}.jpg") for photo in PHOTOS]
        for preset, color, candidate in _candidates(image):
            entropies = [
                _entropy(session.run([scores], {image.name: tensor})[0])
                for photo in photos
                for _, tensor in Batch.of_pictures(photo, candidate, image).runs(image.batch)
            ]
            if np.isfinite(entropies).all():
                found.append(Suspicion(preset, color, float(np.mean(entropies))))
    return sorted(found, key=lambda suspicion: suspicion.entropy)


def _candidates(image: ImageInput) -> Iterator[tuple[str, str, Preprocess]]:
    height, width = image.height or FREE_SIZE, image.width or FREE_SIZE
    for preset in PRESETS:
        for color in ("RGB", "BGR"):
            text = f"{preset},color={color},resize=squash"
            found = recipe.parse(text, image.layout, height, width)
            yield preset, color, replace(found, interpolation="bilinear")


def _entropy(scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Entropy of the first row's class probabilities, in bits."""
    row = scores.reshape(len(scores), -1)[0].astype(np.float64)
    if not np.isfinite(row).all():
        return float("nan")
    if row.min() < 0 or abs(row.sum() - 1) > 1e-3:  # not probabilities yet
        row = np.exp(row - row.max())
    row = row / row.sum()
    return float(-(row * np.log2(np.maximum(row, 1e-300))).sum())

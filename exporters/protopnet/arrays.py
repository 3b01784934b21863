"""A trained ProtoPNet as plain data, without torch: what training and import give, export takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import PrototypeError
from xai_onnx.prototypes import EPSILON, SIMILARITIES
from xai_onnx.recipe import Preprocess


@dataclass(frozen=True, eq=False, kw_only=True)
class PrototypeSources:
    """Where each of P prototypes was projected from ("pushed", Chen et al. 2019, section 2.3).

    Boxes are y0, y1, x0, x1, half open, in pixels of the source picture at the size of the model's
    input. A prototype without a source has location -1, a box of -1 and empty texts and bytes.

    Attributes:
        image_ids: what the training set calls the source picture.
        image_sha256: of the source picture's file (or pixels), hexadecimal.
        boxes: rectangle of the similarity map's highest 5 %, int64 [P, 4].
        receptive_boxes: pixels that can reach the projected cell, clipped, int64 [P, 4].
        locations: y * w + x in the similarity map, int64 [P].
        self_similarity: the prototype's own similarity map on its source, float16 [P, h, w];
            ``None`` where unknown.
        patches: JPEG of what lies in the box.
        pictures: JPEG of the whole source picture.
    """

    image_ids: tuple[str, ...]
    image_sha256: tuple[str, ...]
    boxes: NDArray[np.int64]
    receptive_boxes: NDArray[np.int64]
    locations: NDArray[np.int64]
    self_similarity: NDArray[np.float16] | None
    patches: tuple[bytes, ...]
    pictures: tuple[bytes, ...]

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        shapes = {
            "image_sha256": len(self.image_sha256) == count,
            "boxes": self.boxes.shape == (count, 4),
            "receptive_boxes": self.receptive_boxes.shape == (count, 4),
            "locations": self.locations.shape == (count,),
            "self_similarity": (
                self.self_similarity is None
                or (self.self_similarity.ndim == 3 and len(self.self_similarity) == count)
            ),
            "patches": len(self.patches) == count,
            "pictures": len(self.pictures) == count,
        }
        wrong = [name for name, right in shapes.items() if not right]
        if wrong:
            raise PrototypeError(
                f"the prototypes' sources: {', '.join(wrong)} have not one entry for each of the "
                f"{count} image_ids"
            )

    @classmethod
    def unknown(cls, count: int) -> PrototypeSources:
        """Of `count` prototypes nothing is known."""
        return cls(
            image_ids=("",) * count,
            image_sha256=("",) * count,
            boxes=np.full((count, 4), -1, np.int64),
            receptive_boxes=np.full((count, 4), -1, np.int64),
            locations=np.full(count, -1, np.int64),
            self_similarity=None,
            patches=(b"",) * count,
            pictures=(b"",) * count,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ProtoPNetArrays:
    """A trained ProtoPNet: P prototypes of D channels, C classes.

    Attributes:
        prototypes: float32 [P, D, h1, w1].
        prototype_class: the class that each prototype belongs to, int64 [P].
        weights: of the last layer, which has no bias, float32 [C, P].
        backbone: what gives the latent grid z, [B, D, h, w], add-on layers included: an ONNX
            model (path, `onnx.ModelProto`, `onnx_ir.Model`) or a ``torch.nn.Module``; ``None``
            where it must be given to `exporters.export_protopnet`.
        similarity: ``"log"``: log((d + 1) / (d + epsilon)); ``"linear"``: -d.
        epsilon: of the log similarity.
        add_on: what the layers between backbone and z are called: ``"regular"``,
            ``"bottleneck"``, or free text.
        preprocess: how a picture becomes the input: recipe or its text form; ``None``: unknown.
        labels: C class names, or none.
        sources: where the prototypes come from; ``None``: unknown.
        familiar: a largest similarity below this is unusual for the pictures that the model was
            made for; ``None``: unknown.
        notes: what an importer assumed or left out, a sentence each.
    """

    prototypes: NDArray[np.float32]
    prototype_class: NDArray[np.int64]
    weights: NDArray[np.float32]
    backbone: Any = None
    similarity: str = "log"
    epsilon: float = EPSILON
    add_on: str = ""
    preprocess: Preprocess | str | None = None
    labels: tuple[str, ...] = ()
    sources: PrototypeSources | None = None
    familiar: float | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise PrototypeError(f"the prototype arrays: {problem}")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.weights)

    def _problem(self) -> str | None:
        vectors, weights = self.prototypes, self.weights
        if vectors.ndim != 4 or vectors.dtype != np.float32 or 0 in vectors.shape:
            return f"prototypes must be float32 [P, D, h1, w1], not {_words(vectors)}"
        count = len(vectors)
        if weights.ndim != 2 or weights.dtype != np.float32 or weights.shape[1] != count:
            return f"weights must be float32 [classes, {count}], not {_words(weights)}"
        classes = self.prototype_class
        if classes.shape != (count,) or classes.dtype != np.int64:
            return f"prototype_class must be int64 [{count}], not {_words(classes)}"
        if len(weights) < 1 or classes.min() < 0 or classes.max() >= len(weights):
            return f"prototype_class must lie in 0 to {len(weights) - 1}"
        if not (np.isfinite(vectors).all() and np.isfinite(weights).all()):
            return "there is NaN or infinity in them"
        if self.similarity not in SIMILARITIES:
            return f"similarity {self.similarity!r} is none of {', '.join(SIMILARITIES)}"
        if not 0 < self.epsilon < 1:
            return f"epsilon must lie between 0 and 1, not {self.epsilon}"
        if self.familiar is not None and not np.isfinite(self.familiar):
            return f"familiar must be a finite number, not {self.familiar}"
        if self.labels and len(self.labels) != len(weights):
            return f"{len(self.labels)} labels for {len(weights)} classes"
        if self.sources is not None and len(self.sources.image_ids) != count:
            return f"sources of {len(self.sources.image_ids)} prototypes, not of {count}"
        return None


def _words(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"

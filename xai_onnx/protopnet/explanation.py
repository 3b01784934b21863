"""What a ProtoPNet says of a picture: its score as a sum over prototypes; frozen results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import ImageError
from xai_onnx.explanation import ClassScore

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """The training patch that a prototype was projected onto.

    Attributes:
        image_id: what the training set calls the picture; ``""`` where unknown.
        image_sha256: of the picture, hexadecimal; ``""`` where unknown.
        box: left, top, right, bottom of the patch, as shares of the picture's width and height;
            ``None`` where unknown.
        receptive_box: the same, of all pixels that could reach the patch.
        patch: what lies in the box, uint8 RGB; ``None`` where the bank has no picture.
        picture: the whole picture, small, uint8 RGB; ``None`` as `patch`.
    """

    image_id: str
    image_sha256: str
    box: Box | None
    receptive_box: Box | None
    patch: NDArray[np.uint8] | None
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class PrototypeMatch:
    """One prototype, and the place in the picture that looks most like it.

    Boxes are left, top, right, bottom in pixels of the picture (of the input, for a ready tensor).
    They say where in the latent grid the match lies: latent similarity isn't pixel similarity, and
    every pixel of `receptive_box` may have had a part in it.

    Attributes:
        prototype: its index.
        prototype_class: the class that it belongs to.
        prototype_label: that class's name; ``None`` where the model has none.
        similarity: the largest over all places.
        weight: of the last layer, for the class explained.
        evidence: ``similarity * weight``: what it adds to the score.
        familiar: whether the similarity reaches the model's threshold.
        location: row, column in the similarity map.
        box: rectangle around the highest 5 % of the enlarged similarity map.
        receptive_box: the pixels that can reach this place of the latent grid.
        similarity_map: similarity at every place, float32 [h, w].
        source: the training patch.
    """

    prototype: int
    prototype_class: int
    prototype_label: str | None
    similarity: float
    weight: float
    evidence: float
    familiar: bool
    location: tuple[int, int]
    box: Box
    receptive_box: Box
    similarity_map: NDArray[np.float32]
    source: Source

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; without the pictures."""
        rounded = {
            name: [round(side, 1) for side in getattr(self, name)]
            for name in ("box", "receptive_box")
        }
        return {
            "prototype": self.prototype,
            "prototype_class": self.prototype_class,
            "prototype_label": self.prototype_label,
            "similarity": self.similarity,
            "weight": self.weight,
            "evidence": self.evidence,
            "familiar": self.familiar,
            "location": list(self.location),
            **rounded,
            "similarity_map": [[float(f"{v:.6g}") for v in row] for row in self.similarity_map],
            "source": {"image_id": self.source.image_id, "sha256": self.source.image_sha256},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class PrototypeExplanation(ClassScore):
    """Why a class got its score: ``score == evidence.sum()``, prototype by prototype.

    Attributes:
        method: ``"protopnet"``.
        matches: the prototypes that add most to the class, the most first.
        evidence: what each of all P prototypes adds, float32 [P].
        prototype_class: the class that each belongs to, int64 [P].
        similarities: the largest similarity of each, float32 [P].
        locations: y * w + x of it in the similarity map, int64 [P].
        scores: of every class, float32 [C].
        labels: names of the classes; none where the model has none.
        familiar_at: the model's threshold: a match below it is no familiar part.
        input_size: height, width of what the model sees, in pixels.
        image: the whole picture, uint8 RGB [H0, W0, 3]; ``None`` for a ready tensor.
        box: left, top, right, bottom of the part that the model saw, in pixels of `image`.
    """

    method: str
    matches: tuple[PrototypeMatch, ...]
    evidence: NDArray[np.float32]
    prototype_class: NDArray[np.int64]
    similarities: NDArray[np.float32]
    locations: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    familiar_at: float
    input_size: tuple[int, int]
    image: NDArray[np.uint8] | None = None
    box: Box | None = None

    @property
    def familiar(self) -> bool:
        """Whether any prototype at all finds a familiar part in the picture."""
        return bool(self.similarities.max() >= self.familiar_at)

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """The softmax of the scores, [C]; ``None`` with a single class, which has none."""
        if len(self.scores) == 1:
            return None
        powers = np.exp(self.scores.astype(np.float64) - self.scores.max())
        probabilities: NDArray[np.float64] = powers / powers.sum()
        return probabilities

    def beyond(self, shown: int) -> tuple[int, float, int, float]:
        """What the prototypes behind the first `shown` matches add to the score.

        Returns:
            How many of them belong to the class explained, what those add, how many belong to
            other classes, what those add.
        """
        hidden = np.ones(len(self.evidence), bool)
        hidden[[match.prototype for match in self.matches[:shown]]] = False
        theirs = self.prototype_class == self.target
        own, other = self.evidence[hidden & theirs], self.evidence[hidden & ~theirs]
        return (
            *(len(own), float(own.sum(dtype=np.float64))),
            *(len(other), float(other.sum(dtype=np.float64))),
        )

    @property
    def summary(self) -> str:
        """The explanation in words, one line."""
        likely = "" if self.probability is None else f", {self.probability:.1%}"
        best = self.matches[0]
        text = (
            f"{self.title}{likely}, score {self.score:.4g}: prototype {best.prototype} "
            f"{best.similarity:.3g} x {best.weight:.3g} = {best.evidence:.3g} points"
        )
        return text if self.familiar else f"{text}; no familiar part"

    def ranked(self, count: int) -> list[int]:
        """The `count` classes of the highest scores, and the one explained, the highest first."""
        order = np.argsort(-self.scores, kind="stable").tolist()
        return [c for rank, c in enumerate(order) if rank < count or c == self.target]

    def label_of(self, target: int) -> str:
        """A class in words."""
        return self.labels[target] if self.labels else f"class {target}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a report: rows of "this part looks like that training patch", and the totals.

        Args:
            path: where to; .html makes one self-contained page, another suffix (.png, .jpg,
                .jpeg, .webp) a picture.

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
            OutputFileError: another suffix, or the file can't be written.
        """
        from xai_onnx.protopnet import saving

        saving.save([self], path)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; without the pictures."""
        own, own_evidence, other, other_evidence = self.beyond(len(self.matches))
        return {
            "target": self.target,
            "label": self.label,
            "score": self.score,
            "probability": self.probability,
            "method": self.method,
            "familiar": self.familiar,
            "familiar_at": self.familiar_at,
            "largest_similarity": float(self.similarities.max()),
            "matches": [match.to_dict() for match in self.matches],
            "further_prototypes": {
                "of_this_class": {"count": own, "evidence": own_evidence},
                "of_other_classes": {"count": other, "evidence": other_evidence},
            },
        }

    def seen(self) -> tuple[NDArray[np.uint8], Box]:
        """Picture and box: what drawing needs.

        Raises:
            ImageError: a ready tensor was explained, so the picture isn't known.
        """
        if self.image is None or self.box is None:
            raise ImageError(
                f"the explanation of {self.title} has no picture to draw on, because a ready "
                "tensor was explained; explain a picture, or use its matches"
            )
        return self.image, self.box

"""What does a prototype stand for? The pictures of a set that look most like it.

The global analysis of Chen et al. 2019, section 2.5: where its nearest patches share no meaning
that an eye can see, or belong to other classes, a prototype explains little.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_onnx.batch import BATCH_SIZE
from xai_onnx.errors import ImageError, MethodError
from xai_onnx.protopnet.explanation import PrototypeExplanation

if TYPE_CHECKING:
    from xai_onnx.model import Model

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


@dataclass(frozen=True)
class Neighbour:
    """A picture that a prototype finds itself in.

    Attributes:
        image: its path.
        similarity: the largest in it.
        location: row, column in the similarity map.
        predicted: the class that the model gives the picture.
        prototype_class: the class that the prototype belongs to.
    """

    image: str
    similarity: float
    location: tuple[int, int]
    predicted: int
    prototype_class: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        location = list(self.location)
        return {**vars(self), "location": location}


def nearest(
    model: Model,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    count: int = 5,
    prototypes: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[int, list[Neighbour]]:
    """For each prototype the `count` pictures of highest similarity, the highest first.

    Memory is bounded by `count`: pictures are read in batches and forgotten.

    Args:
        model: a ProtoPNet whose preprocessing is known.
        images: a folder, searched with all below it, or paths.
        count: pictures for each prototype.
        prototypes: their indices; ``None``: all.
        progress: called with the number of pictures done since the last call.

    Returns:
        By index of the prototype; ties in the order of the pictures.

    Raises:
        ImageError: no picture, or one that can't be read.
        MethodError: the model has no prototypes, or not that many.
    """
    known = None if model.manifest is None else model.manifest.prototypes
    if known is None:
        raise MethodError("the model has no prototypes to search with; export a ProtoPNet")
    chosen = range(known.count) if prototypes is None else prototypes
    if any(not 0 <= j < known.count for j in chosen):
        raise MethodError(f"the model's prototypes are 0 to {known.count - 1}, not {list(chosen)}")
    paths = _paths(images)
    best: dict[int, list[tuple[float, int, Neighbour]]] = {j: [] for j in chosen}
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        explained: list[PrototypeExplanation] = model.explain(batch)
        for number, (path, found) in enumerate(zip(batch, explained, strict=True), start):
            for j in chosen:
                neighbour = Neighbour(
                    path,
                    float(found.similarities[j]),
                    divmod(int(found.locations[j]), known.grid[1]),
                    int(found.scores.argmax()),
                    int(found.prototype_class[j]),
                )
                push = heapq.heappush if len(best[j]) < count else heapq.heappushpop
                push(best[j], (neighbour.similarity, -number, neighbour))
        progress(len(batch))
    return {j: [entry[2] for entry in sorted(heap, reverse=True)] for j, heap in best.items()}


def pictures_below(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of all pictures in a folder and below it, sorted.

    Raises:
        ImageError: no folder, or one without pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: is no folder; give one with pictures, or their paths")
    paths = [str(p) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not paths:
        raise ImageError(f"{folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return paths


def _paths(images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    if isinstance(images, str | os.PathLike):
        return pictures_below(images)
    listed = [os.fspath(path) for path in images]
    if not listed:
        raise ImageError("there are no pictures to search")
    return listed

"""Runs of a ProtoPNet's session: similarities and maps, and the explanations made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx import scores
from xai_onnx.batch import ImageInput
from xai_onnx.errors import ManifestError, NonFiniteError, PrototypeError
from xai_onnx.manifest import Manifest
from xai_onnx.protopnet.bank import Bank
from xai_onnx.protopnet.explanation import Box, PrototypeExplanation, PrototypeMatch, Source
from xai_onnx.prototype_box import Rectangle, enlarged, high_box, receptive_box
from xai_onnx.prototypes import Prototypes
from xai_onnx.session import Session

if TYPE_CHECKING:
    from xai_onnx.preprocess import Prepared

# Between the sum of the evidence and the logit, relative to the evidence's absolute sum: both are
# float32 sums of the same products, in another order.
_AGREEMENT = 1e-4


class Explainer:
    """Explains by prototypes; safe to use from many threads."""

    def __init__(self, session: Session, manifest: Manifest, bank: Bank) -> None:
        assert manifest.prototypes is not None
        self._session, self._manifest, self._bank = session, manifest, bank
        self._prototypes: Prototypes = manifest.prototypes

    def explain(
        self,
        session: Session,
        manifest: Manifest,
        image: ImageInput,
        tensor: NDArray[Any],
        wanted: NDArray[Any],
        prepared: Sequence[Prepared | None],
        extra: Mapping[str, NDArray[Any]],
    ) -> list[list[PrototypeExplanation]]:
        """Explain the pictures of one batch; as `xai_onnx.one_run.explain`.

        The file explains one class of each picture a run, so K classes take K runs.

        Raises:
            ManifestError: the outputs aren't what the manifest says.
            NonFiniteError: NaN or infinity in them.
            PrototypeError: the evidence doesn't add up to the scores.
        """
        columns = [None] if manifest.class_index is None else list(range(wanted.shape[1]))
        explained: list[list[PrototypeExplanation]] = [[] for _ in prepared]
        for column in columns:
            feed = {manifest.input: tensor, **extra}
            asked = np.full((len(tensor), 1), -1, np.int64)
            if column is not None:
                asked[: len(wanted), 0] = wanted[:, column]
                feed[str(manifest.class_index)] = asked
            outputs = self._run(feed, len(tensor))
            for index, seen in enumerate(prepared):
                of_picture = {name: array[index] for name, array in outputs.items()}
                target = int(asked[index, 0])
                explained[index].append(self._explanation(of_picture, target, image, tensor, seen))
        return explained

    def _run(self, feed: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
        known = self._prototypes
        names = {
            "logits": self._manifest.score_output,
            "similarities": known.similarities,
            "locations": known.locations,
            "top_indices": known.top_indices,
            "top_maps": known.top_maps,
        }
        found = dict(zip(names, self._session.run(list(names.values()), feed), strict=True))
        shapes = {
            "logits": (self._manifest.num_classes,),
            "similarities": (known.count,),
            "locations": (known.count,),
            "top_indices": (known.top_count,),
            "top_maps": (known.top_count, *known.grid),
        }
        for name, shape in shapes.items():
            if found[name].shape != (count, *shape):
                raise ManifestError(
                    f"{self._session.name}: {name} has shape {list(found[name].shape)}, not "
                    f"{[count, *shape]} as its manifest says; export the model again"
                )
            if not np.isfinite(found[name]).all():
                raise NonFiniteError(
                    f"{self._session.name}: {name} holds NaN or infinity; check the input's range "
                    "against the model's preprocessing"
                )
        return found

    def _explanation(
        self,
        found: dict[str, NDArray[Any]],
        target: int,
        image: ImageInput,
        tensor: NDArray[Any],
        seen: Prepared | None,
    ) -> PrototypeExplanation:
        size = tensor.shape[2:4] if image.layout == "NCHW" else tensor.shape[1:3]
        logits = scores.checked(found["logits"][None], self._session.name)[0]
        target = int(logits.argmax()) if target < 0 else target
        similarities = found["similarities"].astype(np.float32, copy=False)
        evidence = similarities * self._bank.weights[target]
        total = float(evidence.sum(dtype=np.float64))
        if abs(total - logits[target]) > _AGREEMENT * max(1.0, float(np.abs(evidence).sum())):
            raise PrototypeError(
                f"{self._session.name}: the prototypes' evidence for class {target} adds up to "
                f"{total:.6g}, its score is {logits[target]:.6g}; the bank's weights aren't the "
                "file's, export both again"
            )
        where = None if seen is None else seen.box
        matches = []
        for index, grid in zip(found["top_indices"], found["top_maps"], strict=True):
            j = int(index)
            place, own = int(found["locations"][j]), int(self._bank.prototype_class[j])
            boxes = self._boxes(grid, place, size)
            matches.append(
                PrototypeMatch(
                    prototype=j,
                    prototype_class=own,
                    prototype_label=self._manifest.labels[own] if self._manifest.labels else None,
                    similarity=float(similarities[j]),
                    weight=float(self._bank.weights[target, j]),
                    evidence=float(evidence[j]),
                    familiar=bool(similarities[j] >= self._prototypes.familiar),
                    location=divmod(place, self._prototypes.grid[1]),
                    box=_in_picture(boxes[0], size, where),
                    receptive_box=_in_picture(boxes[1], size, where),
                    similarity_map=grid,
                    source=self._source(j, size),
                )
            )
        return PrototypeExplanation(
            **scores.class_score(self._manifest, logits, target),
            method=self._manifest.method,
            matches=tuple(matches),
            evidence=evidence,
            prototype_class=self._bank.prototype_class,
            similarities=similarities,
            locations=found["locations"],
            scores=logits,
            labels=self._manifest.labels,
            familiar_at=self._prototypes.familiar,
            input_size=(size[0], size[1]),
            image=None if seen is None else seen.image,
            box=where,
        )

    def _boxes(
        self, grid: NDArray[np.float32], place: int, size: tuple[int, ...]
    ) -> tuple[Rectangle, Rectangle]:
        known = self._prototypes
        height, width = size[0], size[1]
        field = receptive_box(
            known.receptive_field, place, known.grid, known.size[1:], (height, width)
        )
        return high_box(enlarged(grid, height, width)), field

    def _source(self, j: int, size: tuple[int, ...]) -> Source:
        bank = self._bank
        return Source(
            image_id=bank.image_id(j),
            image_sha256=bank.image_sha256(j),
            box=_share(bank.boxes[j], size),
            receptive_box=_share(bank.receptive_boxes[j], size),
            patch=bank.patch(j),
            picture=bank.picture(j),
        )


def _in_picture(box: Rectangle, size: tuple[int, ...], where: Box | None) -> Box:
    """From y0, y1, x0, x1 of the input to left, top, right, bottom of the picture."""
    left, top, right, bottom = where or (0.0, 0.0, float(size[1]), float(size[0]))
    x, y = (right - left) / size[1], (bottom - top) / size[0]
    return left + box[2] * x, top + box[0] * y, left + box[3] * x, top + box[1] * y


def _share(box: NDArray[np.int64], size: tuple[int, ...]) -> Box | None:
    if (box < 0).any():
        return None
    height, width = size[0], size[1]
    y0, y1, x0, x1 = (float(side) for side in box)
    return x0 / width, y0 / height, min(x1 / width, 1.0), min(y1 / height, 1.0)

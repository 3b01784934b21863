"""lime's neighbourhood of a picture: masks, their distances, and what the classifier answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from xai_onnx.errors import InputShapeError, SamplingError, reason
from xai_onnx.lime.perturb import Composer, segment_means
from xai_onnx.lime.superpixels import numbered

Classifier = Callable[[NDArray[Any]], Any]
Masks = NDArray[np.uint8]

# scikit-learn's other names of SciPy's metrics, and the metrics for which it makes data boolean.
ALIASES = {"l1": "cityblock", "manhattan": "cityblock", "l2": "euclidean"}
BOOLEAN = ("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule")


def draw(random_state: np.random.RandomState, num_samples: int, d: int) -> Masks:
    """Masks of fair coins, uint8 [N, d], the first all ones; the stream is lime's."""
    masks = random_state.randint(0, 2, num_samples * d).reshape(num_samples, d).astype(np.uint8)
    masks[0] = 1
    return masks


def distances(masks: Masks, metric: str | Callable[..., float]) -> NDArray[np.float64]:
    """Of each mask to the first, which is all ones; [N].

    Args:
        masks: [N, d].
        metric: ``"cosine"``, or what `scipy.spatial.distance.cdist` takes.

    Raises:
        SamplingError: an unknown metric.
    """
    if metric == "cosine":  # 1 - sqrt(k / d) for k ones
        d = masks.shape[1]
        table: NDArray[np.float64] = 1 - np.sqrt(np.arange(d + 1) / d)
        cosine: NDArray[np.float64] = table[masks.sum(axis=1, dtype=np.intp)]
        return cosine
    from scipy.spatial.distance import cdist

    name = ALIASES.get(metric, metric) if isinstance(metric, str) else metric
    rows = masks.astype(bool if name in BOOLEAN else np.float64)
    try:
        found: NDArray[np.float64] = cdist(rows, rows[:1], name)
    except ValueError as error:
        raise SamplingError(f"distance_metric {metric!r}: {reason(error)}") from error
    return found.ravel()


def fill(image: NDArray[Any], segments: NDArray[Any], hide_color: Any) -> NDArray[Any]:
    """The picture behind the switched-off superpixels: their means, or a colour; as `image`."""
    filled = np.empty_like(image)
    if hide_color is not None:
        filled[:] = hide_color
        return filled
    labels = numbered(segments).reshape(-1)
    planes = np.moveaxis(image, -1, 0).reshape(image.shape[-1], -1)
    means = segment_means(planes, labels, int(labels.max()) + 1)
    filled[:] = means.astype(image.dtype).T[labels].reshape(image.shape)
    return filled


class Neighborhood:
    """Composes lime's perturbed pictures.

    Column z of a mask switches the superpixel labelled z, as in lime: where the labels aren't
    0..d-1 (d being how many there are), some columns switch nothing, and the superpixels with other
    labels stay on.
    """

    def __init__(
        self, image: NDArray[Any], filled: NDArray[Any], segments: NDArray[Any], d: int
    ) -> None:
        switched = np.isin(segments, np.arange(d))
        self._always_on = not switched.all()
        columns = np.where(switched, segments, d).astype(np.int32)
        self._composer = Composer(image, filled, columns, channels_last=True)

    def pictures(self, masks: Masks) -> NDArray[Any]:
        """A new array of perturbed pictures, [n, H, W, C]: the classifier may keep it."""
        if self._always_on:
            masks = np.pad(masks, ((0, 0), (0, 1)), constant_values=1)
        return self._composer.compose(masks)

    def classify(
        self, masks: Masks, classifier_fn: Classifier, batch_size: int, progress_bar: bool
    ) -> Iterator[NDArray[Any]]:
        """Yield the classifier's answers batch by batch, [n, classes].

        Raises:
            InputShapeError: it answers something of another shape.
        """
        with tqdm(total=len(masks), disable=not progress_bar) as bar:
            for start in range(0, len(masks), batch_size):
                batch = masks[start : start + batch_size]
                answers = np.array(list(classifier_fn(self.pictures(batch))))
                if answers.ndim != 2 or len(answers) != len(batch):
                    raise InputShapeError(
                        f"classifier_fn gave answers of shape {list(answers.shape)} for "
                        f"{len(batch)} pictures; it must give [{len(batch)}, classes]"
                    )
                yield answers
                bar.update(len(batch))

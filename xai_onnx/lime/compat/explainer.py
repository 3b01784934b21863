"""lime's explainer of images, step by step as in lime 0.2.0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import gray2rgb

from xai_onnx.errors import InputShapeError, SamplingError, TargetError
from xai_onnx.lime.compat.explanation import ImageExplanation
from xai_onnx.lime.compat.neighborhood import Classifier, Neighborhood, distances, draw, fill
from xai_onnx.lime.compat.regression import SELECTIONS, Regression, Surrogate
from xai_onnx.lime.compat.segmentation import SegmentationAlgorithm

Kernel = Callable[..., NDArray[np.float64]]


class LimeImageExplainer:
    """Explains any classifier of images, as ``lime.lime_image.LimeImageExplainer`` does.

    The same seed gives the same superpixels, masks and perturbed pictures, bit for bit, and the
    same coefficients to rounding. What lime gets wrong is the same, too: see `Neighborhood` about
    labels that don't start at 0.
    """

    def __init__(
        self,
        kernel_width: float = 0.25,
        kernel: Kernel | None = None,
        verbose: bool = False,
        feature_selection: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        *,
        per_label: bool = False,
    ) -> None:
        """Choose the surrogate.

        Args:
            kernel_width: of the proximity kernel.
            kernel: from distances and ``kernel_width`` to weights; ``None``:
                ``sqrt(exp(-d² / width²))``.
            verbose: print each label's intercept, local prediction and the classifier's answer.
            feature_selection: ``auto``, ``none``, ``forward_selection``, ``highest_weights`` or
                ``lasso_path`` (needs scikit-learn).
            random_state: a seed or a state; ``None``: NumPy's global one. It advances from call to
                call.
            per_label: the explanation's ``score`` and ``local_pred`` are dictionaries with every
                label's, as in the code of lime's repository after release 0.2.0.1. Otherwise, as
                in that release, they are those of the label that was explained last.

        Raises:
            SamplingError: an unknown `feature_selection`, or what is no seed.
        """
        if feature_selection not in SELECTIONS:
            raise SamplingError(
                f"feature_selection {feature_selection!r}: unknown; one of {', '.join(SELECTIONS)}"
            )
        self.kernel_width = float(kernel_width)
        self.kernel = _exponential if kernel is None else kernel
        self.verbose = verbose
        self.feature_selection = feature_selection
        self.random_state = _random_state(random_state)
        self.per_label = per_label

    def explain_instance(
        self,
        image: NDArray[Any],
        classifier_fn: Classifier,
        labels: Iterable[int] = (1,),
        hide_color: Any = None,
        top_labels: int | None = 5,
        num_features: int = 100000,
        num_samples: int = 1000,
        batch_size: int = 10,
        segmentation_fn: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        distance_metric: str | Callable[..., float] = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
        progress_bar: bool = True,
    ) -> ImageExplanation:
        """Explain a picture by what the classifier says of perturbed ones.

        Args:
            image: [H, W, C], or grey [H, W], which becomes RGB.
            classifier_fn: from pictures [n, H, W, C] of `image`'s type to [n, classes].
            labels: which to explain, where `top_labels` is 0 or ``None``.
            hide_color: what a switched-off superpixel shows; ``None``: its mean.
            top_labels: explain so many of the likeliest labels.
            num_features: superpixels that get a coefficient, at most.
            num_samples: perturbed pictures, the original one included.
            batch_size: pictures in one call of `classifier_fn`.
            segmentation_fn: from a picture to labels [H, W]; ``None``: quickshift.
            distance_metric: of a mask to that of the original picture.
            model_regressor: as scikit-learn's linear models, in place of the ridge regression.
            random_seed: without effect but one: if it is ``None``, a number is drawn from
                `random_state`, before the masks are.
            progress_bar: show one.

        Raises:
            InputShapeError: `image`, the segments or the classifier's answers have a wrong shape.
            SamplingError: a number out of range, or an unknown metric.
            TargetError: a label that the classifier hasn't.
            NonFiniteError: NaN or infinity in what the classifier answers.
            DependencyError: scikit-learn is needed and absent.
        """
        if image.ndim == 2:
            image = gray2rgb(image)
        _check(image, num_features=num_features, num_samples=num_samples, batch_size=batch_size)
        if random_seed is None:
            random_seed = self.random_state.randint(0, high=1000)
        if segmentation_fn is None:
            segmentation_fn = SegmentationAlgorithm(
                "quickshift", kernel_size=4, max_dist=200, ratio=0.2, random_seed=random_seed
            )
        segments = _segments(segmentation_fn(image), image)
        d = len(np.unique(segments))
        neighborhood = Neighborhood(image, fill(image, segments, hide_color), segments, d)
        masks = draw(self.random_state, num_samples, d)

        explanation = ImageExplanation(image, segments)
        asked = list(labels)
        batches: list[NDArray[Any]] = []
        for answers in neighborhood.classify(masks, classifier_fn, batch_size, progress_bar):
            if not batches:
                if top_labels:
                    asked = list(np.argsort(answers[0])[-top_labels:])
                    explanation.top_labels = asked[::-1]
                _check_labels(asked, answers.shape[1])
            batches.append(answers[:, asked])
        targets = np.concatenate(batches).astype(np.float64)
        weights = self.kernel(distances(masks, distance_metric), kernel_width=self.kernel_width)
        surrogate = Surrogate(masks, weights, targets)
        for column, label in enumerate(asked):
            regression = surrogate.regress(
                column, num_features, self.feature_selection, model_regressor
            )
            self._put(explanation, label, regression)
            if self.verbose:
                print("Intercept", regression.intercept)
                print("Prediction_local", regression.local_pred)
                print("Right:", targets[0, column])
        return explanation

    def data_labels(
        self,
        image: NDArray[Any],
        fudged_image: NDArray[Any],
        segments: NDArray[Any],
        classifier_fn: Classifier,
        num_samples: int,
        batch_size: int = 10,
        progress_bar: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Draw masks, and ask the classifier about the pictures that they make.

        Args:
            image, fudged_image: [H, W, C], the picture and its fill.
            segments: [H, W], the superpixels.
            classifier_fn, num_samples, batch_size, progress_bar: as in `explain_instance`.

        Returns:
            Masks, int64 [N, d], and the classifier's answers, [N, classes].
        """
        _check(image, num_samples=num_samples, batch_size=batch_size)
        d = len(np.unique(segments))
        masks = draw(self.random_state, num_samples, d)
        neighborhood = Neighborhood(image, fudged_image, segments, d)
        answers = neighborhood.classify(masks, classifier_fn, batch_size, progress_bar)
        return masks.astype(np.int64), np.concatenate(list(answers))

    def _put(self, explanation: ImageExplanation, label: Any, regression: Regression) -> None:
        explanation.intercept[label] = regression.intercept
        explanation.local_exp[label] = regression.coefficients
        if self.per_label:
            explanation.score = {**(explanation.score or {}), label: regression.score}
            explanation.local_pred = {
                **(explanation.local_pred or {}),
                label: regression.local_pred,
            }
        else:
            explanation.score = regression.score
            explanation.local_pred = regression.local_pred


def _exponential(d: NDArray[np.float64], kernel_width: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.sqrt(np.exp(-(d**2) / kernel_width**2))
    return weights


def _random_state(seed: Any) -> np.random.RandomState:
    """What scikit-learn's ``check_random_state`` makes of it."""
    if seed is None or seed is np.random:
        state: np.random.RandomState = np.random.mtrand._rand
        return state
    if isinstance(seed, np.random.RandomState):
        return seed
    try:
        return np.random.RandomState(seed)
    except (TypeError, ValueError) as error:
        raise SamplingError(
            f"random_state {seed!r}: must be a seed (0..2³²-1), a RandomState or None"
        ) from error


def _check(image: NDArray[Any], **numbers: int) -> None:
    if image.ndim != 3 or image.size == 0:
        raise InputShapeError(
            f"image of shape {list(image.shape)}; must be [height, width, channels], not empty"
        )
    for name, number in numbers.items():
        if number < 1:
            raise SamplingError(f"{name} is {number}; must be 1 or more")


def _segments(labels: Any, image: NDArray[Any]) -> NDArray[Any]:
    """Labels as they are, if they are of the picture's size."""
    segments = np.asarray(labels)
    if segments.shape != image.shape[:2]:
        raise InputShapeError(
            f"segmentation_fn gave labels of shape {list(segments.shape)}; must be "
            f"{list(image.shape[:2])}, the picture's height and width"
        )
    return segments


def _check_labels(labels: Sequence[Any], classes: int) -> None:
    missing = [label for label in labels if not -classes <= label < classes]
    if missing or not len(labels):
        raise TargetError(
            f"labels {missing or '()'}: classifier_fn has {classes} classes, 0..{classes - 1}; "
            "give at least one of them"
        )

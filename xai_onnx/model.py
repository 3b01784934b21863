"""The model that users hold: `load` a file, then `predict` and `explain` pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai_onnx import one_run, recipe, scores, targets
from xai_onnx.batch import Batch, Image, ImageInput
from xai_onnx.errors import InputShapeError, MethodError, PreprocessError, ScoreError
from xai_onnx.explanation import Explanation, Prediction
from xai_onnx.extra_inputs import ExtraInputs
from xai_onnx.manifest import Manifest
from xai_onnx.providers import ProviderLike
from xai_onnx.recipe import Preprocess
from xai_onnx.session import ModelSource, Session

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

Inputs = Mapping[str, ArrayLike] | None


def load(
    model: ModelSource,
    *,
    providers: Sequence[ProviderLike] | None = None,
    session_options: SessionOptions | None = None,
    preprocess: Preprocess | str | None = None,
) -> Model:
    """Open an explained model, or a plain classifier for its predictions.

    Args:
        model: path or bytes of an .onnx file.
        providers: execution providers in order of preference, e.g. ``["cuda"]``; ``None``: the
            CPU. One that can't be had is an error.
        session_options: passed on to ONNX Runtime.
        preprocess: how a picture becomes the input, where the file doesn't say, or instead of
            what it says.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    return Model(Session(model, providers, session_options), preprocess)


class Model:
    """An image classifier in ONNX Runtime that explains itself; safe to use from many threads."""

    def __init__(self, session: Session, preprocess: Preprocess | str | None = None) -> None:
        self._session = session
        self._input = _image_input(session)
        self._score_output = _score_output(session)
        if preprocess is None and session.manifest is not None:
            preprocess = session.manifest.preprocess
        self._preprocess = None if preprocess is None else self._input.fitting(preprocess)

    @property
    def manifest(self) -> Manifest | None:
        """What the file says of itself; ``None`` for a plain classifier."""
        return self._session.manifest

    @property
    def preprocess(self) -> Preprocess | None:
        """How a picture becomes the input; ``None`` where that is unknown."""
        return self._preprocess

    @property
    def providers(self) -> list[str]:
        """The execution providers in use."""
        return self._session.providers

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: Image, *, preprocessed: bool = ..., inputs: Inputs = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Sequence[Image], *, preprocessed: bool = ..., inputs: Inputs = ...
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: Image | Sequence[Image],
        *,
        preprocessed: bool = False,
        inputs: Inputs = None,
    ) -> Prediction | list[Prediction]:
        """Classify pictures.

        At the price of the plain model, but for files with ``targets="predicted"``: those compute
        their maps in every run.

        Args:
            images: a path, an uint8 RGB array [H0, W0, 3], a list of those; or, with
                `preprocessed`, a ready float tensor [B, 3, H, W] (or the model's own layout).
            preprocessed: whether `images` is a ready tensor.
            inputs: what the file takes besides, by role (`xai_onnx.extra_inputs`).

        Returns:
            A prediction; a list of them for a list of pictures or a tensor.

        Raises:
            XaiOnnxError: unreadable pictures, a wrong shape, unknown preprocessing, NaN.
        """
        batch = self._batch(images, preprocessed)
        extra = self._extra(inputs, len(batch), explaining=False)
        predictions: list[Prediction] = []
        for which, tensor in batch.runs(self._input.batch):
            feed = {self._input.name: tensor, **extra.feed(which, tensor)}
            feed.update(targets.none(self.manifest, len(tensor)))
            (raw,) = self._session.run([self._score_output], feed)
            for row in scores.checked(raw, self._session.name)[: which.stop - which.start]:
                found = scores.class_score(self.manifest, row, int(row.argmax()))
                predictions.append(Prediction(scores=row, **found))
        return predictions[0] if batch.single else predictions

    def explain(
        self,
        images: Image | Sequence[Image],
        target: int | str | Sequence[int | str] | NDArray[np.integer] | None = None,
        *,
        method: str | None = None,
        preprocessed: bool = False,
        inputs: Inputs = None,
        progress: Callable[[int], object] = lambda done: None,
    ) -> Any:
        """Show which parts of pictures give a class its score.

        Args:
            images: as for `predict`.
            target: the class to explain, by index or label; ``None`` or -1: the predicted one. A
                list of K explains K classes of each picture; an integer array [B, K] gives each
                picture its own. For a file of ``targets="cotangent"`` a float array [K, N] or
                [B, K, N], the weights of the scores in each of K sums.
            method: ``None``, or the method that the file was made for.
            preprocessed: whether `images` is a ready tensor.
            inputs: what the file takes besides, by role (`xai_onnx.extra_inputs`).
            progress: called with the number of pictures done since the last call.

        Returns:
            An `Explanation`; a list of K for K targets; and a list of either, one entry a picture,
            for a list of pictures or a tensor.

        Raises:
            XaiOnnxError: unreadable pictures, a wrong shape, an unknown class, unknown
                preprocessing, NaN, a plain classifier.
        """
        manifest = self._explained(method)
        batch = self._batch(images, preprocessed)
        wanted = targets.rows(manifest, target, len(batch))
        extra = self._extra(inputs, len(batch), explaining=True)
        explained: list[list[Explanation]] = []
        for which, tensor in batch.runs(self._input.batch):
            explained += one_run.explain(
                self._session,
                manifest,
                self._input,
                tensor,
                wanted[which],
                batch.prepared[which],
                extra.feed(which, tensor),
            )
            progress(which.stop - which.start)
        listed = targets.several(manifest, target)
        per_picture: list[Any] = [row if listed else row[0] for row in explained]
        return per_picture[0] if batch.single else per_picture

    def _explained(self, method: str | None) -> Manifest:
        """The manifest of an explained model, made for `method`."""
        name = self._session.name
        if self.manifest is None:
            raise MethodError(
                f"{name}: is a plain classifier and can't explain itself; make an explained file "
                "of it: xai-onnx export gradcam MODEL -o OUT"
            )
        if method not in (None, self.manifest.method):
            raise MethodError(
                f"{name}: was exported for method {self.manifest.method!r}, not {method!r}; export "
                "it again with that method"
            )
        return self.manifest

    def _extra(self, inputs: Inputs, pictures: int, *, explaining: bool) -> ExtraInputs:
        return ExtraInputs(
            self._session,
            self.manifest,
            self._input,
            self._preprocess,
            inputs,
            pictures=pictures,
            explaining=explaining,
        )

    def _batch(self, images: Any, preprocessed: bool) -> Batch:
        if preprocessed:
            return Batch.of_tensor(images, self._input, self._session.name)
        if self._preprocess is None:
            raise PreprocessError(
                f"{self._session.name}: doesn't say how a picture becomes its input; say so with "
                f"preprocess (presets: {', '.join(recipe.PRESETS)}), when loading or exporting it, "
                "or pass a ready tensor with preprocessed=True"
            )
        return Batch.of_pictures(images, self._preprocess, self._input)


def _image_input(session: Session) -> ImageInput:
    if session.manifest is not None:
        return ImageInput.of(session.inputs[session.manifest.input], session.name)
    if len(session.inputs) != 1:
        raise InputShapeError(
            f"{session.name}: has {len(session.inputs)} inputs ({', '.join(session.inputs)}); only "
            "models whose one input is a batch of images are taken"
        )
    return ImageInput.of(next(iter(session.inputs.values())), session.name)


def _score_output(session: Session) -> str:
    if session.manifest is not None:
        return session.manifest.score_output
    found = [name for name, value in session.outputs.items() if len(value.shape) == 2]
    if len(found) != 1:
        raise ScoreError(
            f"{session.name}: {len(found)} of its outputs ({', '.join(session.outputs)}) have the "
            "shape of scores, [batch, classes]; one is needed"
        )
    return found[0]

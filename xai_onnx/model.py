"""The model that users hold: `load` a file, then `predict` and `explain` pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai_onnx import recipe
from xai_onnx.errors import (
    InputShapeError,
    MethodError,
    NonFiniteError,
    PreprocessError,
    ScoreError,
    TargetError,
)
from xai_onnx.explanation import Explanation, Prediction
from xai_onnx.manifest import Manifest
from xai_onnx.providers import ProviderLike
from xai_onnx.recipe import Preprocess
from xai_onnx.session import ModelSource, Session

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

    from xai_onnx.preprocess import Prepared

Image = str | os.PathLike[str] | NDArray[np.uint8]
Images = Image | Sequence[Image]
Target = int | str

BATCH_SIZE = 16  # pictures in one run; memory stays at the largest batch's high-water mark


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
    """An image classifier in ONNX Runtime that can explain itself; safe to use from many threads."""

    def __init__(self, session: Session, preprocess: Preprocess | str | None = None) -> None:
        self._session = session
        self._manifest = session.manifest
        self._input = self._image_input()
        self._score_output = self._find_score_output()
        if isinstance(preprocess, str):
            preprocess = recipe.parse(preprocess, *self._layout())
        if preprocess is None and self._manifest is not None:
            preprocess = self._manifest.preprocess
        self._preprocess = preprocess

    @property
    def manifest(self) -> Manifest | None:
        """What the file says of itself; ``None`` for a plain classifier."""
        return self._manifest

    @property
    def preprocess(self) -> Preprocess | None:
        """How a picture becomes the input; ``None`` where that is unknown."""
        return self._preprocess

    @property
    def providers(self) -> list[str]:
        """The execution providers in use."""
        return self._session.providers

    @overload
    def predict(self, images: Image, *, preprocessed: bool = ...) -> Prediction: ...
    @overload
    def predict(self, images: Sequence[Image], *, preprocessed: bool = ...) -> list[Prediction]: ...

    def predict(
        self, images: Images, *, preprocessed: bool = False
    ) -> Prediction | list[Prediction]:
        """Classify pictures at the price of the plain model.

        Args:
            images: a path, an uint8 RGB array [H0, W0, 3], a list of those; or, with
                `preprocessed`, a ready float tensor [B, 3, H, W] (or the model's own layout).
            preprocessed: whether `images` is a ready tensor.

        Returns:
            A prediction; a list of them for a list of pictures or a tensor.

        Raises:
            XaiOnnxError: unreadable pictures, a wrong shape, unknown preprocessing, NaN.
        """
        batch = self._batch(images, preprocessed)
        predictions: list[Prediction] = []
        for chunk in batch.chunks(self._fixed_batch()):
            feed = {self._input: chunk}
            if self._manifest is not None and self._manifest.class_index is not None:
                feed[self._manifest.class_index] = np.zeros((len(chunk), 0), np.int64)
            (scores,) = self._session.run([self._score_output], feed)
            for row in self._scores(scores):
                target = int(row.argmax())
                predictions.append(Prediction(scores=row, **self._class_score(row, target)))
        predictions = predictions[: len(batch)]
        return predictions[0] if batch.single else predictions

    def explain(
        self,
        images: Images,
        target: Target | Sequence[Target] | ArrayLike | None = None,
        *,
        method: str | None = None,
        preprocessed: bool = False,
        progress: Callable[[int], object] = lambda done: None,
    ) -> Any:
        """Explain why the model gives a class its score.

        Args:
            images: as for `predict`.
            target: the class to explain, by index or label; ``None`` or -1: the predicted one. A
                list of K explains K classes of each picture; an integer array [B, K] gives each
                picture its own.
            method: ``None``, or the method that the file was made for.
            preprocessed: whether `images` is a ready tensor.
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
        classes, several = self._classes(manifest, target, len(batch))
        explanations: list[list[Explanation]] = []
        fixed = self._fixed_batch()
        start = 0
        for chunk in batch.chunks(fixed):
            rows = classes[start : start + len(chunk)]
            done = len(rows)
            if fixed is not None:
                rows = np.concatenate([rows, np.repeat(rows[-1:], len(chunk) - done, axis=0)])
            prepared = batch.prepared[start : start + done]
            explanations += self._explain(manifest, chunk, rows, prepared, done)
            start += done
            progress(done)
        per_picture: list[Any] = [row if several else row[0] for row in explanations]
        return per_picture[0] if batch.single else per_picture

    def _explain(
        self,
        manifest: Manifest,
        chunk: NDArray[Any],
        classes: NDArray[np.int64],
        prepared: Sequence[Prepared | None],
        count: int,
    ) -> list[list[Explanation]]:
        """Explain the first `count` pictures of one run."""
        feed: dict[str, NDArray[Any]] = {self._input: chunk}
        if manifest.class_index is not None:
            feed[manifest.class_index] = classes
        names = [manifest.score_output, manifest.cam]
        if manifest.saliency_map is not None:
            names.append(manifest.saliency_map)
        raw, cams, *maps = self._session.run(names, feed)
        scores = self._scores(raw)
        height, width = chunk.shape[2:] if self._layout()[0] == "NCHW" else chunk.shape[1:3]
        result = []
        for index in range(count):
            row = scores[index]
            if manifest.top_k is not None:
                targets = np.argsort(-row, kind="stable")[: manifest.top_k]
            else:
                targets = np.where(classes[index] < 0, row.argmax(), classes[index])
            seen = prepared[index]
            result.append(
                [
                    Explanation(
                        **self._class_score(row, int(target)),
                        method=manifest.method,
                        target_layer=manifest.target_layer,
                        cam=cams[index, k],
                        saliency_map=(
                            maps[0][index, k] if maps else scaled(cams[index, k], height, width)
                        ),
                        image=None if seen is None else seen.image,
                        box=None if seen is None else seen.box,
                    )
                    for k, target in enumerate(targets)
                ]
            )
        return result

    def _explained(self, method: str | None) -> Manifest:
        if self._manifest is None:
            raise MethodError(
                f"{self._session.name}: is a plain classifier and can't explain itself; make an "
                "explained file of it: xai-onnx export gradcam MODEL -o OUT"
            )
        if method not in (None, self._manifest.method):
            raise MethodError(
                f"{self._session.name}: was exported for {self._manifest.method!r}, not {method!r}; "
                "export it again with that method"
            )
        return self._manifest

    def _classes(
        self, manifest: Manifest, target: Any, pictures: int
    ) -> tuple[NDArray[np.int64], bool]:
        """The classes to explain, [B, K], and whether a list of them was asked for."""
        if manifest.class_index is None:
            if target is not None:
                raise TargetError(
                    f"{self._session.name}: was exported with targets='predicted' and explains no "
                    "class of your choice; export it with targets='class_index'"
                )
            return np.zeros((pictures, 0), np.int64), (manifest.top_k or 1) > 1
        if isinstance(target, np.ndarray) and target.ndim == 2:
            if target.shape[0] != pictures:
                raise TargetError(
                    f"targets of shape {list(target.shape)} don't fit {pictures} pictures; the "
                    "shape is [pictures, classes]"
                )
            rows = target
        else:
            asked = [target] if target is None or isinstance(target, Target) else list(target)
            one = [self._class_of(manifest, item) for item in asked]
            rows = np.tile(np.asarray(one, np.int64), (pictures, 1))
        if not np.issubdtype(rows.dtype, np.integer):
            raise TargetError(f"targets must be whole numbers, not {rows.dtype}")
        wrong = rows[(rows < -1) | (rows >= manifest.num_classes)]
        if wrong.size:
            raise TargetError(
                f"there is no class {int(wrong.flat[0])}; the model has classes 0 to "
                f"{manifest.num_classes - 1}, and -1 stands for the predicted one"
            )
        listed = target is not None and not isinstance(target, Target)
        return rows.astype(np.int64), listed

    def _class_of(self, manifest: Manifest, target: Any) -> int:
        if target is None:
            return -1
        if isinstance(target, int | np.integer) and not isinstance(target, bool):
            return int(target)
        if not isinstance(target, str):
            raise TargetError(f"a class is an index or a label, not {target!r}")
        found = [i for i, label in enumerate(manifest.labels) if label == target]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(
                f"{len(found)} classes are called {target!r}: {found}; give the index"
            )
        if not manifest.labels:
            raise TargetError(
                f"the model has no labels, so no class {target!r}; give an index, or export it "
                "with labels"
            )
        import difflib

        close = difflib.get_close_matches(target, manifest.labels, n=3)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else "give an index"
        raise TargetError(f"there is no class {target!r}; {hint}")

    def _batch(self, images: Any, preprocessed: bool) -> _Batch:
        if preprocessed:
            return self._tensor_batch(images)
        if self._preprocess is None:
            raise PreprocessError(
                f"{self._session.name}: doesn't say how a picture becomes its input; load it with "
                f"preprocess= (presets: {', '.join(recipe.PRESETS)}), export it with --preprocess, "
                "or pass a ready tensor with preprocessed=True"
            )
        single = isinstance(images, str | os.PathLike) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        from xai_onnx.preprocess import prepare

        dtype = self._dtype()
        listed = [images] if single else list(images)
        prepared = [prepare(image, self._preprocess) for image in listed]
        tensors = [item.tensor.astype(dtype, copy=False) for item in prepared]
        return _Batch(tensors, prepared, single)

    def _tensor_batch(self, tensor: Any) -> _Batch:
        tensor = np.asarray(tensor)
        shape = self._session.inputs[self._input].shape
        fits = tensor.ndim == len(shape) and all(
            not isinstance(want, int) or want == got
            for want, got in zip(shape[1:], tensor.shape[1:], strict=True)
        )
        if not fits:
            raise InputShapeError(
                f"{self._session.name}: takes a tensor of shape "
                f"[{', '.join(map(str, shape))}], not {list(tensor.shape)}"
            )
        if not np.isfinite(tensor).all():
            raise NonFiniteError("the input tensor holds NaN or infinity; mend it before")
        return _Batch(list(tensor.astype(self._dtype(), copy=False)), [None] * len(tensor), False)

    def _scores(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Scores as [B, N] float32, checked."""
        scores = raw.reshape(len(raw), -1).astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            raise NonFiniteError(
                f"{self._session.name}: its scores hold NaN or infinity; check the input's range "
                "against the model's preprocessing, and the model's weights"
            )
        return scores

    def _class_score(self, row: NDArray[np.float32], target: int) -> dict[str, Any]:
        labels = () if self._manifest is None else self._manifest.labels
        return {
            "target": target,
            "label": labels[target] if labels else None,
            "score": float(row[target]),
            "probability": self._probability(row, target),
        }

    def _probability(self, row: NDArray[np.float32], target: int) -> float | None:
        if self._manifest is None:
            return None  # nothing says what the outputs of a plain classifier are
        match self._manifest.output_activation:
            case "softmax" | "sigmoid":
                return float(row[target])
            case "log_softmax":
                return float(np.exp(row[target]))
            case _ if len(row) == 1:
                return None
        powers = np.exp(row.astype(np.float64) - row.max())
        return float(powers[target] / powers.sum())

    def _image_input(self) -> str:
        if self._manifest is not None:
            return self._manifest.input
        if len(self._session.inputs) != 1:
            raise InputShapeError(
                f"{self._session.name}: has {len(self._session.inputs)} inputs "
                f"({', '.join(self._session.inputs)}); only models with one image input are taken"
            )
        return next(iter(self._session.inputs))

    def _find_score_output(self) -> str:
        if self._manifest is not None:
            return self._manifest.score_output
        found = [n for n, value in self._session.outputs.items() if len(value.shape) == 2]
        if len(found) != 1:
            raise ScoreError(
                f"{self._session.name}: {len(found)} of its outputs "
                f"({', '.join(self._session.outputs)}) have the shape of scores, [batch, classes]; "
                "one is needed"
            )
        return found[0]

    def _layout(self) -> tuple[str, int | None, int | None]:
        """Layout, height and width of the input; ``None`` for a size that is free."""
        shape = self._session.inputs[self._input].shape
        if len(shape) != 4:
            raise InputShapeError(
                f"{self._session.name}: its input has shape {shape}, a batch of images has 4 axes"
            )
        dims = [size if isinstance(size, int) else None for size in shape]
        if dims[1] in (1, 3, 4):
            return "NCHW", dims[2], dims[3]
        return "NHWC", dims[1], dims[2]

    def _fixed_batch(self) -> int | None:
        size = self._session.inputs[self._input].shape[0]
        return size if isinstance(size, int) else None

    def _dtype(self) -> Any:
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        types |= {"tensor(double)": np.float64, "tensor(uint8)": np.uint8}
        kind = self._session.inputs[self._input].type
        if kind not in types:
            raise InputShapeError(f"{self._session.name}: takes {kind}, which is no image type")
        return types[kind]


@dataclass(frozen=True)
class _Batch:
    """Input tensors of pictures, and what is known of the pictures."""

    tensors: list[NDArray[Any]]
    prepared: Sequence[Prepared | None]
    single: bool

    def __len__(self) -> int:
        return len(self.tensors)

    def chunks(self, fixed: int | None) -> Iterator[NDArray[Any]]:
        """Batches of at most `BATCH_SIZE`; for a model of fixed batch, of that size, padded."""
        size = fixed or BATCH_SIZE
        for start in range(0, len(self.tensors), size):
            chunk = self.tensors[start : start + size]
            if fixed is not None:
                chunk = chunk + [chunk[-1]] * (fixed - len(chunk))
            yield np.stack(chunk)


def scaled(cam: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A saliency map on the host, for files made without one: bilinear, half-pixel, min-max.

    Args:
        cam: [h, w].
        height, width: H, W of the input tensor.

    Returns:
        float32 [H, W] in [0, 1]; all zero where `cam` is constant.
    """
    import cv2

    span = float(cam.max() - cam.min())
    if span == 0.0:
        return np.zeros((height, width), np.float32)
    large = cv2.resize(cam - cam.min(), (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = float(large.min()), float(large.max())
    result: NDArray[np.float32] = (large - low) / (high - low)
    return result

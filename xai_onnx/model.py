"""The model that users hold: `load` a file, then `predict` and `explain` pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai_onnx import one_run, recipe, scores, targets
from xai_onnx.batch import Batch, Image, ImageInput
from xai_onnx.errors import InputShapeError, ManifestError, MethodError, PreprocessError, ScoreError
from xai_onnx.explanation import Prediction
from xai_onnx.extra_inputs import ExtraInputs
from xai_onnx.manifest import Manifest
from xai_onnx.providers import ProviderLike
from xai_onnx.recipe import Preprocess
from xai_onnx.session import ModelSource, Session

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

    from xai_onnx.lime.explainer import Picture
    from xai_onnx.lime.explanation import LimeExplanation
    from xai_onnx.lime.forwards import Forwards
    from xai_onnx.lime.settings import Fill, Segments, Settings
    from xai_onnx.protopnet.explainer import Explainer

Inputs = Mapping[str, ArrayLike] | None


def load(
    model: ModelSource,
    *,
    providers: Sequence[ProviderLike] | None = None,
    session_options: SessionOptions | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] = (),
    bank: str | os.PathLike[str] | None = None,
) -> Model:
    """Open an explained model, or a plain classifier for its predictions.

    Args:
        model: path or bytes of an .onnx file.
        providers: execution providers in order of preference, e.g. ``["cuda"]``; ``None``: the
            CPU. One that can't be had is an error.
        session_options: passed on to ONNX Runtime.
        preprocess: how a picture becomes the input, where the file doesn't say, or instead of
            what it says.
        labels: names of a plain classifier's classes; an explained file has its own.
        bank: the prototype bank of a ProtoPNet, where it doesn't lie beside the model.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    return Model(Session(model, providers, session_options), preprocess, labels, bank)


class Model:
    """An image classifier in ONNX Runtime that explains itself; safe to use from many threads."""

    def __init__(
        self,
        session: Session,
        preprocess: Preprocess | str | None = None,
        labels: Sequence[str] = (),
        bank: str | os.PathLike[str] | None = None,
    ) -> None:
        if labels and session.manifest is not None:
            raise ManifestError(
                f"{session.name}: is an explained file, which has labels of its own or none; "
                "export it again with labels"
            )
        self._session, self._labels = session, tuple(labels)
        self._bank = bank
        self._prototypes: Explainer | None = None  # made when first asked for
        self._input = _image_input(session)
        self._score_output = _score_output(session)
        if preprocess is None and session.manifest is not None:
            preprocess = session.manifest.preprocess
        self._preprocess = None if preprocess is None else self._input.fitting(preprocess)
        self._lime_batch: int | None = None

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
        if self.manifest is not None and self.manifest.lime is not None:
            raise MethodError(
                f"{self._session.name}: has LIME inside and classifies all its perturbed pictures "
                "in every run; predict with the plain model, or take the score out of lime(image)"
            )
        batch = self._batch(images, preprocessed)
        extra = self._extra(inputs, len(batch), explaining=False)
        predictions: list[Prediction] = []
        for which, tensor in batch.runs(self._input.batch):
            feed = {self._input.name: tensor, **extra.feed(which, tensor)}
            feed.update(targets.none(self.manifest, len(tensor)))
            (raw,) = self._session.run([self._score_output], feed)
            for row in scores.checked(raw, self._session.name)[: which.stop - which.start]:
                found = scores.class_score(self.manifest, row, int(row.argmax()), self._labels)
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
            An `Explanation`, of a ProtoPNet a `protopnet.PrototypeExplanation`; a list of K for K
            targets; and a list of either, one entry a picture, for a list of pictures or a tensor.

        Raises:
            XaiOnnxError: unreadable pictures, a wrong shape, an unknown class, unknown
                preprocessing, NaN, a plain classifier.
        """
        manifest = self._explained(method)
        batch = self._batch(images, preprocessed)
        wanted = targets.rows(manifest, target, len(batch))
        extra = self._extra(inputs, len(batch), explaining=True)
        explain, explained = self._explainer(manifest), list[list[Any]]()
        for which, tensor in batch.runs(self._input.batch):
            explained += explain(
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

    def lime(
        self,
        image: Image,
        target: int | str | Sequence[int | str] | None = None,
        *,
        num_samples: int | None = None,
        segments: Segments = None,
        fill: Fill = "mean",
        score: str = "logit",
        sampling: str = "foldover",
        kernel_width: float = 0.25,
        adjustment: bool = True,
        seed: int = 0,
        tol: float | None = None,
        deadline: float | None = None,
        batch_size: int | None = None,
        draft_model: Model | ModelSource | None = None,
        preprocessed: bool = False,
        inputs: Inputs = None,
        progress: Callable[[int, int], object] = lambda done, most: None,
    ) -> Any:
        """Show by LIME which superpixels of a picture give a class its score.

        Any classifier will do, explained or plain. The score is a weighted linear model's of which
        superpixels keep their pixels (Ribeiro, Singh and Guestrin 2016), fitted to the model's
        scores of perturbed pictures.

        Args:
            image: a path, an uint8 RGB array [H0, W0, 3]; or, with `preprocessed`, a ready float
                tensor [1, 3, H, W] (or the model's own layout and channels).
            target: the class to explain, by index or label; ``None`` or -1: the predicted one. A
                list explains several at the price of one.
            num_samples: perturbed pictures, at most. ``None``: 1,024, or four blocks of the
                sampling design where that is more (above 127 superpixels); with `tol` or
                `deadline` up to 16 times as many. All 2^d masks instead where they are no more.
            segments: ``"quickshift"`` (``None``), ``"slic"``, ``"felzenszwalb"`` or ``"grid"``
                (`xai_onnx.lime.superpixels`), parameters behind it as in
                ``"slic,n_segments=100"``; or labels of any numbering, [H, W] as the model sees the
                picture, or [H0, W0] of the whole.
            fill: what stands where a superpixel is off (`xai_onnx.lime.perturb.baseline`).
            score: what is explained, ``"logit"`` or ``"probability"``; what that means for a model
                that ends in a softmax is said in `xai_onnx.lime.score_scale`, and in the result.
            sampling: ``"foldover"``, ``"iid"`` (as lime), ``"glime"`` or ``"full"``
                (`xai_onnx.lime.sampling`).
            kernel_width: of the proximity kernel, in cosine distance.
            adjustment: whether what can be foreseen of the scores is left out of the sampling
                error (`xai_onnx.lime.adjustment`): fewer forwards for the same answer, in the limit
                the same. For foldover, from four blocks of masks on, and not in files with LIME
                inside; the result says whether it took part.
            seed: of the masks, which depend on nothing else but d, N and the design. (Scores may
                differ in the last digit from one batch size to the other.)
            tol: stop once every standard error is within `tol` of the largest coefficient.
            deadline: seconds after which the best answer so far is returned. One picture is run in
                any case; superpixels take their time, and so does loading a draft from a file.
            batch_size: perturbed pictures in one run; ``None``: the fastest of 1, 2, 4, ..., 32,
                found out during the first call, or the model's own where that is fixed.
            draft_model: another file, or a loaded one, that runs the perturbed pictures in this
                model's place: an int8 copy of it, say. How far it agrees is in the result.
            preprocessed: whether `image` is a ready tensor.
            inputs: what the file takes besides, by role (`xai_onnx.extra_inputs`).
            progress: called with the number of forwards done, and how many there are at most; of a
                file with LIME inside once, at the end.

        Returns:
            A `LimeExplanation`; a list of them for a list of targets.

        Warns:
            LimeWarning: the answer can't be trusted, for instance because it is mostly noise.

        Raises:
            XaiOnnxError: an unreadable picture, a wrong shape, an unknown class or method, numbers
                out of range, unknown preprocessing, NaN.
        """
        from xai_onnx.lime import explainer
        from xai_onnx.lime.draft import check
        from xai_onnx.lime.forwards import BatchSize
        from xai_onnx.lime.score_scale import choose
        from xai_onnx.lime.settings import Settings

        settings = Settings(
            num_samples=num_samples,
            segments=segments,
            seed=seed,
            batch_size=batch_size,
            tol=tol,
            deadline=deadline,
            score=score,
            sampling=sampling,
            kernel_width=kernel_width,
            adjustment=adjustment,
            fill=fill,
        )
        batch = self._batch(image, preprocessed)
        if len(batch) != 1:
            raise InputShapeError(
                f"{self._session.name}: LIME explains one picture at a time, not {len(batch)}"
            )
        picture = explainer.Picture(batch.tensors[0], batch.prepared[0], self._preprocess)
        several = not isinstance(target, str) and isinstance(target, Sequence | np.ndarray)
        asked: list[Any] = list(target) if several else [target]  # type: ignore[arg-type]
        if self.manifest is not None and self.manifest.lime is not None:
            for what, given in (("draft model", draft_model), ("inputs besides", inputs or None)):
                if given is not None:
                    raise MethodError(
                        f"{self._session.name}: has LIME inside and takes no {what}; explain the "
                        "plain model with it"
                    )
            in_file = self._lime_in_file(self.manifest, picture, asked, settings)
            progress(in_file[0].forwards, in_file[0].forwards)
            return in_file if several else in_file[0]
        forwards, runner, draft = self.forwards(inputs), self, None
        if draft_model is not None:
            if not isinstance(draft_model, Model):
                draft_model = Model(Session(draft_model, self.providers))
            runner, draft = draft_model, draft_model.forwards(inputs)
            check(forwards, draft)

        def wanted(row: NDArray[np.float32]) -> explainer.Wanted:
            scale = choose(score, self.manifest, row, forwards.dtype, forwards.name)
            labels = self._labels if self.manifest is None else self.manifest.labels
            classes = [targets.index(item, len(row), labels) for item in asked]
            fields = [
                scores.class_score(self.manifest, row, int(row.argmax()) if c < 0 else c, labels)
                for c in classes
            ]
            return explainer.Wanted(fields, scale)

        size = BatchSize(runner._input.batch or batch_size or runner._lime_batch)
        found = explainer.explain(forwards, draft, picture, wanted, settings, size, progress)
        if size.settled and batch_size is None:
            runner._lime_batch = size.size
        return found if several else found[0]

    def _lime_in_file(
        self,
        manifest: Manifest,
        picture: Picture,
        asked: Sequence[int | str | None],
        settings: Settings,
    ) -> list[LimeExplanation]:
        """Let a file that has LIME inside explain."""
        from xai_onnx.lime import in_file

        classes = [targets.index(item, manifest.num_classes, manifest.labels) for item in asked]
        file = in_file.File(self._session, manifest, self._input)
        return in_file.explain(file, picture, np.array(classes, np.int64), settings)

    def forwards(self, inputs: Inputs = None) -> Forwards:
        """The model as a function from ready batches to scores: what LIME runs.

        Args:
            inputs: what the file takes besides, by role (`xai_onnx.extra_inputs`).
        """
        from xai_onnx.lime.forwards import Forwards

        extra = self._extra(inputs, 1, explaining=False)

        def besides(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
            return {**extra.feed(slice(0, 1), batch), **targets.none(self.manifest, len(batch))}

        return Forwards(self._session, self._input, self._score_output, besides)

    def _explainer(self, manifest: Manifest) -> Callable[..., list[list[Any]]]:
        """What explains a batch: by prototypes for a ProtoPNet, else by maps."""
        if manifest.prototypes is None:
            return one_run.explain
        if self._prototypes is None:
            from xai_onnx.protopnet.bank import Bank
            from xai_onnx.protopnet.explainer import Explainer

            beside = Path(self._session.name).with_name(manifest.prototypes.bank)
            bank = Bank(self._bank or beside, manifest.prototypes, manifest.num_classes)
            self._prototypes = Explainer(self._session, manifest, bank)
        return self._prototypes.explain

    def _explained(self, method: str | None) -> Manifest:
        """The manifest of an explained model, made for `method`."""
        name = self._session.name
        if self.manifest is None:
            raise MethodError(
                f"{name}: is a plain classifier and can't explain itself; make an explained file "
                "of it: xai-onnx export gradcam MODEL -o OUT"
            )
        if not self.manifest.map and self.manifest.prototypes is None:
            how = "call lime(image)" if self.manifest.lime else "it only classifies"
            raise MethodError(f"{name}: has no saliency map inside; {how}")
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

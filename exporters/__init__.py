"""Write explanations into ONNX classifiers. Build time only: the run time is `xai_onnx`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import attributed, explained, int8_copy, lime
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.int8_copy import FLOAT_LAYERS, Agreement
from exporters.labels import Labels
from exporters.lime import RETURNS, Fit
from exporters.protopnet.checkpoint import import_protopnet
from exporters.protopnet.export import export_protopnet
from exporters.save import save, to_bytes
from exporters.source import ModelLike
from exporters.torch_export import Layer, TorchModule, as_onnx, from_torch
from xai_onnx.errors import MethodError
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess

__all__ = [
    "explained_bytes",
    "export_attribution",
    "export_gradcam",
    "export_int8",
    "export_lime",
    "export_protopnet",
    "from_torch",
    "import_protopnet",
]


def export_gradcam(
    model: ModelLike | TorchModule,
    output: str | os.PathLike[str],
    *,
    example_input: Any = None,
    target_layer: Layer | Sequence[Layer] | None = None,
    method: str = "gradcam",
    score: str = "logits",
    input_name: str | None = None,
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    saliency_map: bool = True,
) -> Manifest:
    """Write `model`, with its own Grad-CAM inside, to `output`.

    The file keeps the model's inputs and outputs and gains the input ``class_index``, int64
    [B, K], -1 for the predicted class (none with ``targets="predicted"``), and the outputs
    ``activations`` [B, C, h, w] (of further layers ``activations_2``...), ``cam`` [B, K, h, w] and
    ``saliency_map`` [B, K, H, W], float32.
    It holds operators of the default ONNX domain only and needs nothing of this package to run.

    Args:
        model: an image classifier: path of an .onnx file, `onnx.ModelProto`, `onnx_ir.Model`,
            ``torch.nn.Module``, or what `from_torch` made of one.
        output: where the explained .onnx file goes; replaced once it is whole.
        example_input: what a torch module is called with (see `from_torch`).
        target_layer: ONNX value (or node) whose activations are explained, a feature map
            [B, C, h, w], [B, h, w, C] or tokens [B, n, C] (see `exporters.feature_map`); where
            torch wrote the model, also the path of a torch module, as in ``named_modules()``; of a
            torch module also a part of it; several: `cam` is then the mean of their saliency maps;
            ``None``: found (see `exporters.target_layer`).
        method: one of `exporters.cams.CAM_METHODS`.
        score: ``"logits"``: differentiate the class score before a final softmax or sigmoid;
            ``"output"``: the output as it is; one of `exporters.heads` for models that are no
            classifiers; with ``:NAME`` behind it, or as ``NAME``, that of a value of this name.
        input_name: the input that takes the picture, where more than one could.
        targets: ``"class_index"``: the classes are an input; ``"one_class"``: one class an image
            is, [B, 1], which makes the gradient to the pixels faster; ``"predicted"``: the file
            explains the `top_k` classes of highest score; ``"cotangent"``: the weights of the
            scores in the sum to explain are an input, float [B, K, N].
        top_k: K with ``targets="predicted"``.
        preprocess: how a picture becomes the input: a recipe, or its text form
            (`xai_onnx.recipe.parse`); ``None``: the file takes ready tensors only.
        labels: N class names, or a file with them: a JSON list, or one name a line.
        saliency_map: whether the file also makes the map at image size.

    Returns:
        The manifest that was written into the file.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    plain, layer = as_onnx(model, example_input, target_layer)
    explanation, manifest = explained.build(
        plain,
        target_layer=layer,
        method=method,
        score_at=score,
        input_name=input_name,
        targets=targets,
        top_k=top_k,
        preprocess=preprocess,
        labels=labels,
        with_saliency_map=saliency_map,
    )
    save(explanation, output)
    return manifest


def export_attribution(
    model: ModelLike | TorchModule,
    output: str | os.PathLike[str],
    *,
    example_input: Any = None,
    method: str = "saliency",
    score: str = "logits",
    input_name: str | None = None,
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    saliency_map: bool = True,
) -> Manifest:
    """Write `model`, with an attribution to its pixels inside, to `output`.

    As `export_gradcam`, with the outputs ``attribution``, float32 [B, K, *image], and
    ``saliency_map`` [B, K, H, W], its absolute values summed over the channels and min-max scaled.
    ``integrated-gradients`` takes the inputs ``steps``, int64 [1], and ``baseline`` [1, *image];
    ``smoothgrad`` takes ``noise`` [n, *image] (see `exporters.attributions`).

    Args:
        model, example_input: as for `export_gradcam`.
        output: where the explained .onnx file goes; replaced once it is whole.
        method: one of `exporters.attributions.ATTRIBUTION_METHODS`.
        score, input_name, targets, top_k, preprocess, labels, saliency_map: as for
            `export_gradcam`.

    Returns:
        The manifest that was written into the file.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    plain, _ = as_onnx(model, example_input, None)
    explanation, manifest = attributed.build(
        plain,
        method=method,
        score_at=score,
        input_name=input_name,
        targets=targets,
        top_k=top_k,
        preprocess=preprocess,
        labels=labels,
        with_saliency_map=saliency_map,
    )
    save(explanation, output)
    return manifest


def export_lime(
    model: ModelLike | TorchModule,
    output: str | os.PathLike[str],
    *,
    example_input: Any = None,
    returns: str = "coefficients",
    score: str = "logits",
    input_name: str | None = None,
    max_segments: int = 127,
    num_samples: int | None = None,
    batch_size: int = 8,
    kernel_width: float = 0.25,
    alpha: float = 1.0,
    seed: int = 0,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
) -> Manifest:
    """Write `model`, with LIME inside, to `output`: one run explains one picture.

    The file takes the model's image input, [1, C, H, W] or [1, H, W, C], and of the same shape and
    type ``fill``, what stands where a superpixel is off (a preprocessed grey picture, or the mean
    of each superpixel); ``segments``, int32 [H, W], the superpixel of each pixel.

    With ``returns="coefficients"`` it takes ``class_index``, int64 [K], -1 for the predicted class,
    and gives ``scores`` (called as the model's own output, [1, N]) and float32 ``coefficients``
    [K, D], ``standard_errors`` [K, D] (not of a single block of masks), ``intercept`` [K],
    ``fidelity`` [K], the weighted R^2, and ``value`` [K], the score that is explained; D is
    `max_segments`. The masks are in the file. Superpixels are numbered from 0 to D - 1, with gaps
    or without; the coefficients of numbers that don't occur are exactly 0. A number beyond D - 1 is
    an error of ONNX Runtime's (on the CPU); a negative one counts from the end, as in any ONNX
    operator.

    With ``returns="scores"`` it takes ``masks``, bool [N, D], whether a superpixel is on, and gives
    ``perturbed_scores`` float32 [N, classes], for a fit outside.

    Further outputs of the model are left out. Only operators of the default ONNX domain are used.

    Args:
        model, example_input: as for `export_gradcam`.
        output: where the .onnx file goes; replaced once it is whole.
        returns: ``"coefficients"`` or ``"scores"``.
        score: what the surrogate is fitted to: a score as for `export_gradcam`, or
            ``"probability"``.
        input_name: the input that takes the picture, where more than one could.
        max_segments: D, the most superpixels that a picture may have.
        num_samples: N, perturbed pictures that the surrogate is fitted to, besides the picture
            itself; ``None``: 1,024, or four blocks of the design (`xai_onnx.lime.sampling`).
        batch_size: pictures that are classified at once; the model's own where that is fixed.
        kernel_width: of the proximity kernel.
        alpha: of the ridge.
        seed: of the masks.
        preprocess, labels: as for `export_gradcam`.

    Returns:
        The manifest that was written into the file.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    if returns not in RETURNS:
        raise MethodError(f"returns={returns!r} is none of {', '.join(RETURNS)}")
    plain, _ = as_onnx(model, example_input, None)
    fit = Fit(max_segments, num_samples, kernel_width, alpha, seed)
    explanation, manifest = lime.build(
        plain,
        fit=fit if returns == "coefficients" else None,
        score_at=score,
        input_name=input_name,
        batch_size=batch_size,
        preprocess=preprocess,
        labels=labels,
    )
    save(explanation, output)
    return manifest


def export_int8(
    model: ModelLike,
    output: str | os.PathLike[str],
    pictures: NDArray[np.float32],
    *,
    score: str = "logits",
    input_name: str | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
    float_layers: int = FLOAT_LAYERS,
) -> tuple[Manifest, Agreement]:
    """Write a copy of `model` in int8 to `output`: a draft for `xai_onnx.Model.lime`.

    The copy takes and gives what the model does, in float32; it needs onnxruntime.quantization to
    be made, and nothing of this package to run. It is faster on processors that have instructions
    for 8-bit products (AVX-512 VNNI, Arm dot product), and may be slower on others.

    Args:
        model: as for `export_gradcam`.
        output: where the .onnx file goes; replaced once it is whole.
        pictures: what it is calibrated on, as the model takes them, [n, C, H, W] or [n, H, W, C];
            some dozens of the kind that will be explained.
        score: of `Agreement`, and what stays in float behind it, as for `export_gradcam`.
        input_name, preprocess, labels: as for `export_gradcam`.
        float_layers: convolutions at the beginning that stay in float; fewer are faster, more
            agree better.

    Returns:
        The manifest that was written into the file, and how the copy agrees with the model.

    Raises:
        XaiOnnxError: one of its leaves says what is wrong, where, and what to do.
    """
    copy, manifest, agreement = int8_copy.build(
        model,
        pictures,
        score_at=score,
        input_name=input_name,
        preprocess=preprocess,
        labels=labels,
        float_layers=float_layers,
    )
    save(copy, output)
    return manifest, agreement


def explained_bytes(
    model: ModelLike,
    *,
    method: str = "gradcam",
    target_layer: str | Sequence[str] | None = None,
    score: str = "logits",
    input_name: str | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Labels = None,
) -> bytes:
    """The file that `export_gradcam` would write, in memory; for models of less than 2 GB.

    For a method of attribution that of `export_attribution`, which has no target layer.
    """
    more: dict[str, Any] = {
        "method": method,
        "score_at": score,
        "input_name": input_name,
        "preprocess": preprocess,
        "labels": labels,
    }
    if method not in ATTRIBUTION_METHODS:
        return to_bytes(explained.build(model, target_layer=target_layer, **more)[0])
    if target_layer is not None:
        raise MethodError(f"method {method!r} goes to the pixels and takes no target layer")
    return to_bytes(attributed.build(model, **more)[0])

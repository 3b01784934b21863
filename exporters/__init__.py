"""Write explanations into ONNX classifiers. Build time only: the run time is `xai_onnx`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from exporters import attributed, explained
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.labels import Labels
from exporters.save import save, to_bytes
from exporters.source import ModelLike
from exporters.torch_export import Layer, TorchModule, as_onnx, from_torch
from xai_onnx.errors import MethodError
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess

__all__ = ["explained_bytes", "export_attribution", "export_gradcam", "from_torch"]


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

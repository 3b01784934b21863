"""Write explanations into ONNX classifiers. Build time only: the run time is `xai_onnx`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from exporters.explained import build
from exporters.save import save, to_bytes
from exporters.source import ModelLike
from xai_onnx.manifest import Manifest
from xai_onnx.recipe import Preprocess

__all__ = ["explained_bytes", "export_gradcam"]


def export_gradcam(
    model: ModelLike,
    output: str | os.PathLike[str],
    *,
    target_layer: str | None = None,
    method: str = "gradcam",
    score: str = "logits",
    targets: str = "class_index",
    top_k: int = 1,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    saliency_map: bool = True,
) -> Manifest:
    """Write `model`, with its own Grad-CAM inside, to `output`.

    The file keeps the model's inputs and outputs and gains the input ``class_index``, int64
    [B, K], -1 for the predicted class (none with ``targets="predicted"``), and the outputs
    ``activations`` [B, C, h, w], ``cam`` [B, K, h, w] and ``saliency_map`` [B, K, H, W], float32.
    It holds operators of the default ONNX domain only and needs nothing of this package to run.

    Args:
        model: an image classifier: path of an .onnx file, `onnx.ModelProto` or `onnx_ir.Model`.
        output: where the explained .onnx file goes; replaced once it is whole.
        target_layer: ONNX value (or node) whose activations are explained, [B, C, h, w];
            ``None``: found (see `exporters.target_layer`).
        method: one of `exporters.cams.CAM_METHODS`.
        score: ``"logits"``: differentiate the class score before a final softmax or sigmoid;
            ``"output"``: the output as it is.
        targets: ``"class_index"``: the classes are an input; ``"predicted"``: the file explains
            the `top_k` classes of highest score.
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
    explained, manifest = build(
        model,
        target_layer=target_layer,
        method=method,
        score_at=score,
        targets=targets,
        top_k=top_k,
        preprocess=preprocess,
        labels=labels,
        with_saliency_map=saliency_map,
    )
    save(explained, output)
    return manifest


def explained_bytes(
    model: ModelLike,
    *,
    target_layer: str | None = None,
    score: str = "logits",
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
) -> bytes:
    """The file that `export_gradcam` would write, in memory; for models of less than 2 GB."""
    explained, _ = build(
        model, target_layer=target_layer, score_at=score, preprocess=preprocess, labels=labels
    )
    return to_bytes(explained)

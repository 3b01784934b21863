"""What pytorch-grad-cam says of an ONNX classifier, by its own classes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch_oracle import TorchClassifier

Array = NDArray[Any]

SCALE = 1e9


class WithoutTerm(pytorch_grad_cam.GradCAMPlusPlus):
    """Grad-CAM++ where the 1e-6 in its denominator counts for nothing.

    By the formula without that term, s G and A / s in place of the gradient G and the activations A
    give s times the weights, whatever s is; beside s^2 G^2 the term vanishes.
    """

    def get_cam_weights(
        self, pictures: object, layer: object, targets: object, activations: Array, grads: Array
    ) -> Array:
        """The weights [B, C]."""
        a, g = activations.astype(np.float64) / SCALE, grads.astype(np.float64) * SCALE
        return super().get_cam_weights(pictures, layer, targets, a, g) / SCALE


CAM_CLASSES: dict[str, type[BaseCAM]] = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "elementwise": pytorch_grad_cam.GradCAMElementWise,
}


def maps(
    cam_class: type[BaseCAM],
    net: TorchClassifier,
    layers: Sequence[str],
    images: NDArray[np.float32],
    classes: NDArray[np.int64],
) -> tuple[list[Array], Array]:
    """The raw map of each layer, [B, K, h, w], and the result, [B, K, H, W].

    Args:
        cam_class: a class of pytorch-grad-cam.
        net: the classifier.
        layers: ONNX values.
        images: [B, C, H, W].
        classes: [B, K].
    """
    x = torch.from_numpy(images).requires_grad_()
    raw: list[list[Array]] = []
    results = []
    with cam_class(net, [net.layer(name) for name in layers]) as method:
        inner = method.get_cam_image

        def kept(*arguments: Any) -> Array:
            cam: Array = inner(*arguments)
            raw[-1].append(np.maximum(cam, 0))  # as the caller does with it
            return cam

        method.get_cam_image = kept
        for column in classes.T:
            raw.append([])
            results.append(method(x, [ClassifierOutputTarget(int(c)) for c in column]))
    return [np.stack(each, 1) for each in zip(*raw, strict=True)], np.stack(results, 1)

"""The methods that a file can be made for, and what people call them.

The formulas stand in `exporters.cams` and `exporters.attributions`; tests compare the tables.
"""

from __future__ import annotations

CAMS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "elementwise": "element-wise Grad-CAM",
}

ATTRIBUTIONS = {
    "saliency": "saliency",
    "input-x-gradient": "input x gradient",
    "smoothgrad": "SmoothGrad",
    "integrated-gradients": "integrated gradients",
}

NAMES = {**CAMS, **ATTRIBUTIONS}

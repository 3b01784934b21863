"""The methods, and what people call them: those that a file is made for, and LIME beside it.

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

PERTURBATIONS = {"lime": "LIME"}  # many runs of any classifier, explained or plain

PROTOTYPES = {"protopnet": "ProtoPNet"}

NAMES = {**CAMS, **ATTRIBUTIONS, **PERTURBATIONS}

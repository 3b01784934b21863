"""`Model.lime` on tiny and on made-up classifiers: answers, limits, and bad input."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_net import LABELS, finished, photos, saved, tensors, tiny_net

import xai_onnx
from xai_onnx.errors import (
    InputShapeError,
    LimeWarning,
    ManifestError,
    NonFiniteError,
    PreprocessError,
    SamplingError,
    ScoreError,
    TargetError,
)
from xai_onnx.lime import sampling
from xai_onnx.lime.forwards import SIZES, BatchSize

pytestmark = pytest.mark.filterwarnings("ignore::xai_onnx.errors.LimeWarning")

QUADRANTS = np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8), int))  # of a 32 x 32 input


def opened(proto, **options):
    return xai_onnx.load(proto.SerializeToString(), **options)


def region_model(formula, groups, size=32, channels=1):
    """A classifier of bright squares: `formula` makes nodes from "lit" [B, groups] to "logits".

    "lit" holds for each square of the picture (4 x 4 of them) whether its mean is above a half.
    """
    side = size // 4
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["means"], kernel_shape=[side, side], strides=[side, side]
        ),
        helper.make_node("ReduceMean", ["means", "channel_axis"], ["grey"], keepdims=0),
        helper.make_node("Flatten", ["grey"], ["flat"]),
        helper.make_node("Greater", ["flat", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["lit"], to=TensorProto.FLOAT),
        *formula,
    ]
    arrays = {
        "half": np.float32(0.5),
        "channel_axis": np.array([1]),
        "last": np.array([1]),
        "groups": np.array(groups),
        "pi": np.float32(np.pi),
    }
    graph = helper.make_graph(
        nodes,
        "regions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", channels, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "n"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return finished(graph)


def all_of(groups):
    """1 where all of the squares `groups` are lit, else 0: the AND of Garreau and Mardaoui 2021."""
    return region_model(
        [
            helper.make_node("Gather", ["lit", "groups"], ["chosen"], axis=1),
            helper.make_node("ReduceMin", ["chosen", "last"], ["logits"], keepdims=1),
        ],
        groups,
    )


def bright(channels=1):
    return np.ones((1, channels, 32, 32), np.float32)


class TestClosedForm:
    def test_and_of_three_superpixels(self):
        """Garreau and Mardaoui 2021: the coefficient of each shape of an AND is known.

        The limit of weighted least squares over all masks, computed here by enumeration, is .26348
        for d = 60 and three superpixels; 16 superpixels are few enough to run every mask.
        """
        model = opened(all_of([1, 6, 11]))
        found = model.lime(
            bright(), 0, segments=QUADRANTS, fill=0.0, preprocessed=True, num_samples=2**16
        )
        assert found.sampling == "full"
        assert found.forwards == 2**16
        assert not found.standard_errors.any()
        expected = closed_form(16, 3)
        # the ridge penalty of 1 against 2^16 rows shrinks by some 1e-4
        np.testing.assert_allclose(found.coefficients[[1, 6, 11]], expected, rtol=3e-4)
        others = np.delete(found.coefficients, [1, 6, 11])
        assert np.ptp(others) < 1e-6

    def test_the_papers_figure(self):
        assert closed_form(60, 3) == pytest.approx(0.26348, abs=5e-6)

    def test_the_sampled_answer_tends_to_it(self):
        model = opened(all_of([1, 6, 11]))
        found = model.lime(
            bright(), 0, segments=QUADRANTS, fill=0.0, preprocessed=True, num_samples=8192
        )
        assert found.sampling == "foldover"
        error = np.abs(found.coefficients[[1, 6, 11]] - closed_form(16, 3))
        assert (error < 5 * found.standard_errors[[1, 6, 11]] + 1e-3).all()  # five sigma


def closed_form(d, p, width=sampling.WIDTH):
    """Coefficient of each of the p superpixels in an AND, as the number of samples grows.

    Written from the normal equations of weighted least squares over fair coins. Masks that agree in
    the number a of the p that are on, and b of the other d - p, are alike.
    """
    from math import comb

    weights = sampling.proximity(d, width)
    rows = [(a, b) for a in range(p + 1) for b in range(d - p + 1)]
    w = np.array([comb(p, a) * comb(d - p, b) / 2.0**d * weights[a + b] for a, b in rows])
    # by symmetry one slope for the p together, one for the rest together
    design = np.array([[1, a, b] for a, b in rows], float)
    y = np.array([float(a == p) for a, b in rows])
    gram = design.T @ (w[:, None] * design)
    return np.linalg.solve(gram, design.T @ (w * y))[1]


class TestAnswers:
    def test_adjusted_or_not_the_answer_is_the_same_within_its_errors(self):
        tensor, model = tensors(1), opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 500}
        adjusted = model.lime(tensor, 2, **options)
        plain = model.lime(tensor, 2, adjustment=False, **options)
        assert adjusted.adjusted
        assert not plain.adjusted
        apart = np.abs(adjusted.coefficients - plain.coefficients)
        assert apart.max() > 0
        assert (apart < 5 * plain.standard_errors + 1e-3).all()  # five sigma, and the penalty
        assert not model.lime(tensor, 2, sampling="iid", **options).adjusted

    def test_equal_to_a_slow_twin(self):
        """Masks, composing, forwards and fit, one picture at a time, by NumPy."""
        tensor, tiny = tensors(1), tiny_net()
        model = opened(tiny)
        options = {"preprocessed": True, "num_samples": 500, "adjustment": False}
        found = model.lime(tensor, 2, segments=QUADRANTS, **options)
        assert not found.adjusted
        means = np.zeros_like(tensor)
        for j in range(16):
            where = np.equal(QUADRANTS, j)
            means[0][:, where] = tensor[0][:, where].mean(1, keepdims=True)
        rows, weights, scores = [], [], []
        for block in sampling.masks(16, 500, 0):
            for mask, weight in zip(block.masks, block.weights, strict=True):
                on = mask[QUADRANTS].astype(bool)
                rows.append(mask)
                weights.append(weight)
                perturbed = np.where(on, tensor, means)
                scores.append(model.predict(perturbed, preprocessed=True)[0].scores[2])
        x, w, y = np.array(rows, float), np.array(weights), np.array(scores, float)
        xc, yc = x - w @ x / w.sum(), y - w @ y / w.sum()
        expected = np.linalg.solve(xc.T @ (w[:, None] * xc) + np.eye(16), xc.T @ (w * yc))
        # float32 scores of order 1, rounded otherwise in other batches
        np.testing.assert_allclose(found.coefficients, expected, atol=2e-6)
        residual = yc - xc @ expected
        assert found.fidelity == pytest.approx(1 - w @ residual**2 / (w @ yc**2), abs=1e-4)
        assert found.effective_sample_size == pytest.approx(w.sum() ** 2 / (w @ w))
        assert found.scale == "logit"
        assert found.value == pytest.approx(found.score)

    def test_several_classes_at_the_price_of_one(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 200}
        options["batch_size"] = 8
        listed = model.lime(tensors(1), [3, -1, 0], **options)
        alone = [model.lime(tensors(1), target, **options) for target in (3, None, 0)]
        assert [e.target for e in listed] == [e.target for e in alone]
        for together, one in zip(listed, alone, strict=True):
            np.testing.assert_array_equal(together.coefficients, one.coefficients)
            np.testing.assert_array_equal(together.standard_errors, one.standard_errors)
            assert together.forwards == one.forwards == 200

    def test_a_picture(self, model):
        found = model.lime(photos(1)[0], "cat", num_samples=64)
        assert found.label == "cat"
        assert found.image.shape == (48, 56, 3)
        assert found.segments.shape == found.evidence.shape == found.saliency_map.shape == (32, 32)
        d = len(found.coefficients)
        np.testing.assert_array_equal(np.unique(found.segments), np.arange(d))
        assert found.saliency_map.max() <= 1
        assert found.method == "lime"
        data = json.loads(json.dumps(found.to_dict()))
        runs = data.pop("segments")
        again = np.repeat(runs["labels"], runs["lengths"]).reshape(runs["shape"])
        np.testing.assert_array_equal(again, found.segments)
        assert len(data["coefficients"]) == d
        assert set(data) >= {"scale", "fidelity", "forwards", "warnings", "sampling", "seed"}

    def test_segments_of_the_whole_picture_are_cut_to_what_the_model_sees(self, model):
        photo = photos(1)[0]
        halves = np.zeros(photo.shape[:2], int)
        halves[:, photo.shape[1] // 2 :] = 7
        found = model.lime(photo, segments=halves)
        expected = np.zeros((32, 32), int)
        expected[:, 16:] = 1
        np.testing.assert_array_equal(found.segments, expected)
        assert found.forwards == 4

    @pytest.mark.parametrize(
        ("segments", "lowest", "highest"),
        [
            ("quickshift", 1, 30),
            ("slic,n_segments=9,compactness=1000.5", 4, 12),
            ("felzenszwalb", 1, 60),
            ("grid,rows=2,columns=3", 6, 6),
        ],
    )
    def test_superpixels_by_name(self, model, segments, lowest, highest):
        found = model.lime(photos(1)[0], segments=segments, num_samples=8)
        assert lowest <= len(found.coefficients) <= highest

    def test_every_ending_and_score(self):
        """Log-odds of a softmax are the logit against the other classes'."""
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 256}
        logits = opened(tiny_net()).predict(tensors(1), preprocessed=True)[0].scores.astype(float)
        others = np.log(np.exp(np.delete(logits, 1)).sum())
        p = np.exp(logits[1]) / np.exp(logits).sum()
        softmax, sigmoid = opened(tiny_net("Softmax")), opened(tiny_net("LogSoftmax"))
        for model, score, scale, value in (
            (opened(tiny_net()), "logit", "logit", logits[1]),
            (opened(tiny_net()), "probability", "probability", p),
            (softmax, "logit", "log-odds", logits[1] - others),
            (softmax, "probability", "probability", p),
            (sigmoid, "logit", "logit", logits[1] - np.log(np.exp(logits).sum())),
        ):
            found = model.lime(tensors(1), 1, score=score, **options)
            assert found.scale == scale
            assert found.value == pytest.approx(value, abs=1e-5)
        one = opened(tiny_net("Sigmoid", classes=1)).lime(tensors(1), **options)
        assert one.scale == "score"

    def test_endings_that_the_manifest_knows(self, export):
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 64}
        logits = opened(tiny_net()).predict(tensors(1), preprocessed=True)[0].scores.astype(float)
        others = np.log(np.exp(np.delete(logits, 1)).sum())
        for ending, expected in (
            ("LogSoftmax", logits[1] - others),
            ("Softmax", logits[1] - others),
            ("Sigmoid", logits[1]),
        ):
            model = xai_onnx.load(export(tiny_net(ending), f"{ending}.onnx"))
            found = model.lime(tensors(1), 1, **options)
            assert found.scale == "log-odds"
            assert found.value == pytest.approx(expected, abs=1e-4)
            sure = model.lime(tensors(1), 1, score="probability", **options)
            assert sure.value == pytest.approx(sure.probability, rel=1e-6)

    def test_certainty_leaves_the_log_odds_their_digits(self):
        """Where p is rounded to 1 the log-odds still are the logits' distance."""
        model = opened(tiny_net("Softmax", gain=1500.0))
        plain = opened(tiny_net(gain=1500.0)).predict(tensors(1), preprocessed=True)[0]
        logits = plain.scores.astype(float)
        expected = logits.max() - np.logaddexp.reduce(np.delete(logits, plain.target))
        assert 15 < expected < 80  # 1 - p is less than half a step of float32
        found = model.lime(tensors(1), segments=QUADRANTS, preprocessed=True, num_samples=8)
        assert found.score == 1
        assert found.value == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("batch", ["batch", 3])
    def test_layouts_types_and_fixed_batches(self, dtype, layout, batch):
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 100}
        expected = opened(tiny_net(dtype=dtype)).lime(tensors(1, dtype=dtype), 1, **options)
        model = opened(tiny_net(dtype=dtype, layout=layout, batch=batch))
        found = model.lime(tensors(1, dtype=dtype, layout=layout)[:1], 1, **options)
        same = tensors(1, dtype=dtype)
        if layout == "NHWC":
            same = np.moveaxis(same, 1, -1)
            found = model.lime(same, 1, **options)
        atol = {"float16": 5e-3, "uint8": 1e-3}.get(dtype, 1e-5)  # of scores of order 1 to 100
        np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=atol, rtol=1e-3)
        assert found.forwards == 100
        assert batch == "batch" or found.batch_size == 3

    def test_an_explained_file_is_run_without_its_maps(self, model, tiny):
        plain = xai_onnx.load(tiny, preprocess="unit", labels=LABELS)
        one, other = (m.lime(photos(1)[0], "bee", num_samples=64) for m in (model, plain))
        np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-5)
        assert (one.label, other.label) == ("bee", "bee")

    @pytest.mark.parametrize("targets", ["predicted", "one_class", "cotangent"])
    def test_files_that_take_other_targets(self, export, targets):
        path = export(
            tiny_net(), targets=targets, **({"top_k": 2} if targets == "predicted" else {})
        )
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 32}
        found = xai_onnx.load(path).lime(tensors(1), 3, **options)
        assert found.target == 3


class TestSameMasks:
    @pytest.mark.parametrize("sampler", ["foldover", "iid", "glime"])
    def test_whatever_the_batch_size(self, sampler, monkeypatch):
        """The masks are the same to the bit, the coefficients to the scores' rounding."""
        from xai_onnx.lime.perturb import Composer

        seen = []
        original = Composer.compose

        def compose(self, masks, out=None):
            seen.append(masks.copy())
            return original(self, masks, out)

        monkeypatch.setattr(Composer, "compose", compose)
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 333}
        options |= {"sampling": sampler, "seed": 5}
        rows, coefficients = [], []
        for batch_size in (1, 7, 32, 50, None):
            seen.clear()
            found = model.lime(tensors(1), 1, batch_size=batch_size, **options)
            rows.append(np.concatenate(seen))
            coefficients.append(found.coefficients)
        for other in rows[1:]:
            np.testing.assert_array_equal(rows[0], other)
        np.testing.assert_allclose(coefficients[1:], [coefficients[0]] * 4, atol=1e-5)

    def test_whatever_the_threads(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 300}
        options["batch_size"] = 8
        alone = model.lime(tensors(1), 1, **options)
        with ThreadPoolExecutor(4) as pool:
            several = list(pool.map(lambda _: model.lime(tensors(1), 1, **options), range(8)))
        for found in several:
            np.testing.assert_array_equal(found.coefficients, alone.coefficients)

    def test_other_seeds_are_other_masks(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 100}
        one, other = (model.lime(tensors(1), 1, seed=s, **options) for s in (0, 1))
        assert not np.array_equal(one.coefficients, other.coefficients)


class TestWhenToStop:
    def test_tol(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True}
        rough = model.lime(tensors(1), 1, tol=0.5, **options)
        fine = model.lime(tensors(1), 1, tol=0.01, **options)
        for found, tol in ((rough, 0.5), (fine, 0.01)):
            largest = np.abs(found.coefficients).max()
            assert found.standard_errors.max() <= tol * largest
        assert sampling.FEWEST_BLOCKS * sampling.block_size(16) <= rough.forwards
        assert rough.forwards < fine.forwards

    def test_tol_does_not_go_beyond_the_samples(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 300}
        assert model.lime(tensors(1), 1, tol=1e-9, **options).forwards == 300

    def test_a_deadline_that_has_passed_leaves_one_batch(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True}
        found = model.lime(tensors(1), 1, deadline=1e-9, **options)
        assert found.forwards == 1
        assert np.isfinite(found.coefficients).all()
        assert found.standard_errors is None
        assert found.noise is None
        assert "at least 128 samples" in found.warnings[0]

    def test_the_deadline_cuts_the_pass_short(self, monkeypatch):
        """On a clock that counts forwards: a batch isn't started that would end too late."""
        from xai_onnx.lime import forwards, one_pass

        now = itertools.count()
        time = type("clock", (), {"perf_counter": staticmethod(lambda: next(now) * 1.0)})
        monkeypatch.setattr(forwards, "time", time)
        monkeypatch.setattr(one_pass, "time", time)
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True, "batch_size": 4}
        found = model.lime(tensors(1), 1, deadline=200.0, **options)
        assert 100 < found.forwards < 400

    def test_progress_says_how_far(self):
        steps = []
        model = opened(tiny_net())
        model.lime(
            tensors(1),
            segments=QUADRANTS,
            preprocessed=True,
            num_samples=100,
            progress=lambda done, most: steps.append((done, most)),
        )
        assert steps[-1] == (100, 100)
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})


class TestBatchSize:
    def test_the_fastest_is_found(self):
        size = BatchSize()
        costs = dict(zip(SIZES, (1.0, 0.8, 0.6, 0.5, 0.55, 0.54), strict=True))
        tried = []
        while not size.settled:
            tried.append(size.size)
            size.observe(size.size, size.size * costs[size.size])
        assert size.size == 8
        assert tried == [s for s in SIZES for _ in range(2)] + [8, 16, 32] * 3

    def test_one_lucky_run_does_not_decide(self):
        size = BatchSize()
        while not size.settled:
            lucky = size.size == 4 and len(size._times.get(4, [])) == 1
            size.observe(size.size, size.size * (0.9 if lucky or size.size == 2 else 1.0))
        assert size.size == 2

    def test_hopeless_sizes_are_not_tried(self):
        size = BatchSize()
        for batch, seconds in ((1, 9.0), (1, 1.0), (2, 9.0), (2, 2.6)):
            assert not size.settled
            size.observe(batch, seconds)
        assert size.settled
        assert size.size == 1

    def test_cut_batches_do_not_count(self):
        size = BatchSize()
        size.observe(1, 1.0)
        size.observe(1, 1.0)
        size.observe(1, 0.1)
        assert size.size == 2
        assert size.seconds == 0.1

    def test_the_next_call_knows(self):
        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True}
        first = model.lime(tensors(1), **options)
        assert model._lime_batch == first.batch_size
        model._lime_batch = 16
        assert model.lime(tensors(1), **options).batch_size == 16
        assert model.lime(tensors(1), batch_size=5, **options).batch_size == 5
        assert model._lime_batch == 16


class TestDraft:
    def test_agreement_with_itself_and_with_a_rounded_copy(self):
        proto = tiny_net()
        model = opened(proto)
        rounded = onnx.ModelProto()
        rounded.CopyFrom(proto)
        for weight in rounded.graph.initializer:
            array = numpy_helper.to_array(weight)
            step = np.abs(array).max() / 16
            weight.CopyFrom(numpy_helper.from_array(np.round(array / step) * step, weight.name))
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 200}
        itself = model.lime(tensors(1), 1, draft_model=opened(proto), **options)
        assert itself.draft.largest_deviation == 0
        assert itself.draft.correlation == pytest.approx(1)
        assert itself.draft.samples == 32
        found = model.lime(tensors(1), 1, draft_model=opened(rounded), **options)
        plain = model.lime(tensors(1), 1, **options)
        assert plain.draft is None
        assert 0.5 < found.draft.correlation < 1
        assert found.draft.largest_deviation > 0
        assert found.score == plain.score
        assert found.forwards == 200
        assert not np.array_equal(found.coefficients, plain.coefficients)
        data = json.loads(json.dumps(found.to_dict()))["draft"]
        assert data["samples"] == 32

    @pytest.mark.parametrize(("passed", "samples"), [(True, 0), (False, 1)])
    def test_a_deadline_leaves_little_time_to_compare(self, monkeypatch, passed, samples):
        """One picture is compared, or none once the deadline has passed."""
        from xai_onnx.lime import forwards

        now = itertools.count()
        ticking = type("clock", (), {"perf_counter": staticmethod(lambda: next(now) * 1.0)})
        monkeypatch.setattr(forwards, "time", ticking)
        model, deadline = opened(tiny_net()), 0.5 if passed else 8.0
        options = {"segments": QUADRANTS, "preprocessed": True, "deadline": deadline}
        found = model.lime(tensors(1), 1, draft_model=opened(tiny_net(seed=9)), **options)
        assert found.draft.samples == samples
        assert found.draft.correlation is None
        assert (found.draft.largest_deviation is None) == passed
        json.dumps(found.to_dict(), allow_nan=False)

    def test_a_poor_draft_is_warned_of(self, tmp_path):
        model, other = opened(tiny_net()), saved(tiny_net(seed=9), tmp_path / "other.onnx")
        options = {"segments": QUADRANTS, "preprocessed": True, "num_samples": 128}
        with pytest.warns(LimeWarning, match="follows the model poorly"):
            found = model.lime(tensors(1), 1, draft_model=other, **options)
        assert found.draft.model == other

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"size": 16}, "takes the same pictures as the model"),
            ({"layout": "NHWC"}, "takes the same pictures as the model"),
            ({"dtype": "float16"}, "takes the same pictures as the model"),
            ({"classes": 4}, "has the model's classes, 5, not 4"),
        ],
    )
    def test_a_draft_of_another_kind(self, changes, message):
        model = opened(tiny_net())
        with pytest.raises(InputShapeError, match=message):
            model.lime(tensors(1), preprocessed=True, draft_model=opened(tiny_net(**changes)))


class TestDoubts:
    def test_noise_is_said(self):
        """A score that depends on all superpixels' parity has no linear part at all."""
        parity = region_model(
            [
                helper.make_node("ReduceSum", ["lit", "last"], ["sum"], keepdims=1),
                helper.make_node("Mul", ["sum", "pi"], ["angle"]),
                helper.make_node("Cos", ["angle"], ["logits"]),
            ],
            [0],
        )
        model = opened(parity)
        options = {"segments": QUADRANTS, "fill": 0.0, "preprocessed": True, "num_samples": 1000}
        with pytest.warns(LimeWarning, match="class 0: the coefficients are mostly noise") as told:
            found = model.lime(bright(), **options)
        assert found.noise > 0.5
        assert found.fidelity < 0.3
        assert "take more samples" in found.warnings[0]
        assert Path(told[0].filename).name == "test_lime.py"

    def test_a_good_answer_is_not_doubted(self):
        model = opened(tiny_net())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = model.lime(tensors(1), segments=QUADRANTS, preprocessed=True)
        assert found.warnings == ()
        assert found.noise < 0.1


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes_the_answer_is_finite(data):
    """Labels with gaps, of any type and number; few samples; one colour; any channels."""
    draw = data.draw
    channels = draw(st.sampled_from([1, 3, 4]), "channels")
    size = draw(st.sampled_from([8, 32]), "size")
    gain = draw(st.sampled_from([0.0, 1.0]), "gain")
    d = draw(st.integers(1, 40), "d")
    dtype = draw(st.sampled_from(["int8", "uint8", "int32", "int64", "uint64", "bool"]), "dtype")
    seed = draw(st.integers(0, 100), "seed")
    num_samples = draw(st.sampled_from([1, 2, 3, 17, 64, 200]), "num_samples")
    name = draw(st.sampled_from(["foldover", "iid", "glime"]), "sampling")
    ending = draw(st.sampled_from([None, "Softmax"]), "ending")
    score = draw(st.sampled_from(["logit", "probability"]), "score")
    rng = np.random.default_rng(seed)
    own = draw(st.sampled_from(["labels", "grid", None]), "segments")
    segments = own
    if own == "labels":
        numbers = rng.choice(100, d, replace=False).astype(dtype)
        segments = numbers[rng.integers(0, d, (size, size))]
    tensor = rng.random((1, channels, size, size), np.float32)
    if draw(st.booleans(), "one colour"):
        tensor[:] = 0.25
    model = opened(tiny_net(ending, size=size, channels=channels, gain=gain))
    found = model.lime(
        tensor,
        segments=segments,
        num_samples=num_samples,
        sampling=name,
        score=score,
        seed=seed,
        preprocessed=True,
    )
    assert np.isfinite(found.coefficients).all()
    assert found.standard_errors is None or np.isfinite(found.standard_errors).all()
    assert np.isfinite([found.intercept, found.fidelity, found.effective_sample_size]).all()
    assert 1 <= found.forwards <= num_samples
    assert found.segments.max() == len(found.coefficients) - 1
    if gain == 0 or np.ptp(tensor) == 0:
        assert np.abs(found.coefficients).max() < 1e-4  # rounding between batches at most
    json.dumps(found.to_dict(), allow_nan=False)


class TestBadInput:
    @pytest.mark.parametrize("name", ["num_samples", "batch_size"])
    @pytest.mark.parametrize("value", [0, -3, 1.5, True, "many"])
    def test_counts(self, name, value):
        with pytest.raises(SamplingError, match=f"{name} must be a whole number from 1 on, not"):
            opened(tiny_net()).lime(tensors(1), preprocessed=True, **{name: value})

    @pytest.mark.parametrize("name", ["tol", "deadline"])
    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "soon"])
    def test_limits(self, name, value):
        with pytest.raises(SamplingError, match=f"{name} must be a positive number, not"):
            opened(tiny_net()).lime(tensors(1), preprocessed=True, **{name: value})

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"seed": -1}, SamplingError, "seed must be a whole number from 0 on, not -1"),
            ({"seed": None}, SamplingError, "seed must be a whole number"),
            ({"sampling": "sobol"}, SamplingError, "no sampling design 'sobol'"),
            ({"kernel_width": 0.0}, SamplingError, "width must be a positive number"),
            ({"score": "odds"}, ScoreError, "no score 'odds' to explain; one of logit, prob"),
            ({"target": 9}, TargetError, "no class 9; the model has classes 0 to 4"),
            ({"target": "cat"}, TargetError, "no labels, so there is no class 'cat'"),
            ({"segments": np.zeros((5, 5), int)}, InputShapeError, r"shape \[5, 5\] are neither"),
            ({"segments": "voronoi"}, InputShapeError, "voronoi"),
            ({"segments": "slic,n_segments"}, InputShapeError, "is not key=number, as in slic"),
            ({"segments": "grid,size=3"}, InputShapeError, "segments 'grid': "),
            ({"fill": "plaid"}, InputShapeError, "plaid"),
            ({"fill": [0.0, 1.0]}, InputShapeError, "fill of shape"),
            ({"inputs": {"mask": [1]}}, InputShapeError, "takes no input 'mask'"),
        ],
    )
    def test_settings(self, changes, error, message):
        options = {"segments": QUADRANTS, "preprocessed": True, **changes}
        with pytest.raises(error, match=message):
            opened(tiny_net()).lime(tensors(1), **options)

    def test_scores_of_nan(self):
        model = opened(tiny_net(gain=np.nan))
        with pytest.raises(NonFiniteError, match="scores hold NaN or infinity"):
            model.lime(tensors(1), preprocessed=True, segments=QUADRANTS)

    def test_scores_that_become_nan_where_something_is_covered(self):
        """log(lit): finite for the picture itself, infinite for the first perturbed one."""
        model = opened(region_model([helper.make_node("Log", ["lit"], ["logits"])], [0]))
        with pytest.raises(NonFiniteError, match="scores hold NaN or infinity"):
            model.lime(bright(), segments=QUADRANTS, fill=0.0, preprocessed=True)

    def test_one_logit_has_no_probability(self):
        with pytest.raises(ScoreError, match="no probability to explain; say score='logit'"):
            opened(tiny_net(classes=1)).lime(
                tensors(1), preprocessed=True, score="probability", segments=QUADRANTS
            )

    def test_one_picture_at_a_time(self):
        with pytest.raises(InputShapeError, match="one picture at a time, not 2"):
            opened(tiny_net()).lime(tensors(2), preprocessed=True)

    def test_unknown_preprocessing(self):
        with pytest.raises(PreprocessError, match="doesn't say how a picture becomes its input"):
            opened(tiny_net()).lime(photos(1)[0])

    def test_labels(self, tiny, tiny_explained):
        with pytest.raises(ManifestError, match="2 names, but the model has 5 classes"):
            xai_onnx.load(tiny, preprocess="unit", labels=["a", "b"]).lime(photos(1)[0])
        with pytest.raises(ManifestError, match="is an explained file, which has labels"):
            xai_onnx.load(tiny_explained, labels=LABELS)
        named = xai_onnx.load(tiny, preprocess="unit", labels=LABELS)
        assert named.predict(photos(1)[0]).label in LABELS


class TestInterruption:
    def test_what_progress_raises_ends_the_call(self):
        def stop(done, most):
            raise KeyboardInterrupt

        model = opened(tiny_net())
        options = {"segments": QUADRANTS, "preprocessed": True}
        with pytest.raises(KeyboardInterrupt):
            model.lime(tensors(1), progress=stop, **options)
        assert model.lime(tensors(1), num_samples=16, **options).forwards == 16

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_ctrl_c_leaves_no_file(self, tiny, tmp_path):
        """In mid-run: the process has said so itself."""
        code = (
            "import sys\n"
            "from xai_onnx.cli import main, output\n"
            "import contextlib\n"
            "class Bar:\n"
            "    n = total = 0\n"
            "    def update(self, count=1):\n"
            "        self.n += count\n"
            "        print('running', flush=True)\n"
            "bar = contextlib.nullcontext(Bar())\n"
            "from xai_onnx.cli import lime\n"
            "lime.progress = lambda *_: bar\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        photo = tmp_path / "photo.png"
        from PIL import Image

        Image.fromarray(photos(1)[0]).save(photo)
        out = tmp_path / "out.png"
        arguments = ["explain", tiny, str(photo), "-o", str(out), "--method", "lime"]
        arguments += ["--preprocess", "unit", "--segments", "grid", "--samples", "100000000"]
        root = Path(xai_onnx.__file__).parent.parent
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGINT)
            _, error = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
        assert process.returncode == 130
        assert error == "xai-onnx explain: interrupted\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


def test_memory_stays_small():
    """What 10,000 perturbed pictures of 224 x 224 take beyond the session: one buffer and sums.

    In a process of its own, for the system counts the peak of a process. The session's own share,
    its arena for the largest batch above all, is paid before: by forwards of every batch size.
    """
    code = """
import resource, sys
import numpy as np
import xai_onnx
from xai_onnx.lime.forwards import SIZES

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model = xai_onnx.load(sys.argv[1])
rng = np.random.default_rng(0)
tensor = rng.random((1, 3, 224, 224), np.float32)
cells = np.kron(np.arange(196).reshape(14, 14), np.ones((16, 16), int))
model.lime(tensor, 1, segments=cells, preprocessed=True, num_samples=1, batch_size=1)
session = model._session
for size in SIZES:
    session.run(["logits"], {"image": np.zeros((size, 3, 224, 224), np.float32)})
before = peak()
found = model.lime(tensor, 1, segments=cells, preprocessed=True, num_samples=10_000)
assert found.forwards == 10_000
print(peak() - before)
"""
    pytest.importorskip("resource")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = saved(mean_model(224), Path(folder) / "mean.onnx")
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(xai_onnx.__file__).parent.parent)},
            timeout=300,
        )
    assert float(done.stdout) <= 64  # MiB; the buffer of 32 pictures alone is 18.4


def mean_model(size):
    """Colour means times weights: as good as free, so that many forwards are quick."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 4])],
        [numpy_helper.from_array(rng.standard_normal((3, 4)).astype(np.float32), "w")],
    )
    return finished(graph)

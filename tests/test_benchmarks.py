"""The benchmark scripts run, print what they promise, and fail where they should."""

import shutil
import tempfile
from pathlib import Path

import backend_node_tests
import check_models
import conformance
import cost
import cv2
import directional
import emitted_gradient
import gradient_cost
import int8_maps
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import protopnet_cost
import protopnet_numerics
import protopnet_training
import pytest
import small_nets
import stamps
import torch
from emitted import parsed
from onnx import numpy_helper
from PIL import Image
from small_protopnet import backbone as small_backbone
from tiny_net import saved, tensors, tiny_net
from torch import nn
from torch_oracle import OnTheSameSide, TorchClassifier, activations_and_gradient
from zoo import Architecture

from exporters.vjp_rules import VJP_RULES
from xai_onnx.explanation import Explanation, Prediction


def test_cost_prints_every_side_and_a_verdict_for_each_limit(tiny, capsys):
    cost.main([str(tiny), "--batch", "1,2", "--rounds", "2", "--seconds", "0.001"])
    out = capsys.readouterr().out
    assert "processor" in out.splitlines()[0]
    for side in ("plain", "twin", "explained", "explained, K = 0"):
        assert out.count(f"\n  {side}  ") == 2
    verdicts = [line for line in out.splitlines() if line.startswith(("within", "BEYOND"))]
    assert len(verdicts) == 4


@pytest.mark.parametrize(("ratio", "verdict"), [(1.04, "within"), (1.2, "BEYOND")])
def test_a_cost_beyond_its_limit_is_said(ratio, verdict):
    def latency(factor):
        return cost.Latency((factor,) * 4, (factor,) * 4)

    timed = {"plain": latency(1.0), "twin": latency(1.01)}
    timed |= {"explained": latency(ratio), "explained, K = 0": latency(1.0)}
    first, second = cost._verdicts("net", 1, timed)
    assert first.startswith(verdict)
    assert second.startswith("within 1.01 + noise 0.010")


def test_check_models_compares_with_torch(tiny, tmp_path, capsys):
    shutil.copy(tiny, tmp_path / "tiny.onnx")
    assert check_models.main([str(tmp_path)]) == 0
    assert "bit-identical" in capsys.readouterr().out


def test_check_models_fails_where_torch_disagrees(tmp_path, monkeypatch, capsys):
    saved(tiny_net(), tmp_path / "tiny.onnx")
    right = check_models.activations_and_gradient

    def wrong(*arguments):
        activations, gradient = right(*arguments)
        return activations, gradient * np.float32(1.001)

    monkeypatch.setattr(check_models, "activations_and_gradient", wrong)
    assert check_models.main([str(tmp_path)]) == 1
    assert "tolerance 1e-05" in capsys.readouterr().out


def test_backend_node_tests_prints_a_line_for_each_operator_and_every_reason(capsys):
    operators = "Relu,LeakyRelu,Conv,Gather,Reshape,Loop"
    assert backend_node_tests.main(["--operators", operators]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert lines["Gather"] == ["4", "4", "0", "8", "8"]
    assert lines["Conv"][:4] == ["6", "6", "0", "24"]
    assert "  Conv, 12: with weights that depend on the image" in out
    assert "  Loop, 4: no rule for Loop" in out
    assert "failed:\n\n" in out


def test_backend_node_tests_fails_where_a_gradient_is_wrong(monkeypatch, capsys):
    right = directional.vjp

    def wrong(op, *arguments):
        (g,) = right(op, *arguments)
        return [g.with_value(op.Add(g.value, g.value))]

    monkeypatch.setattr(directional, "vjp", wrong)
    assert backend_node_tests.main(["--operators", "Sigmoid"]) == 1
    assert "test_sigmoid, y by x, constants: relative error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("nodes", "at", "kind", "why"),
    [
        ("y = Relu(x)", [1, -2], "passed", ""),
        ("y = Relu(x)", [0, 1], "moved", ""),
        ("y = Bernoulli(x)", [1, 1], "refused", "no rule for Bernoulli"),
        ("c = Cast<to=7>(x)  y = Cast<to=1>(c)", [1, 1], "excluded", "no path of floats"),
        ("y = Log(x)", [-1, -2], "excluded", "the output isn't finite, here and near"),
    ],
)
def test_the_directional_test_says_what_became_of_it(nodes, at, kind, why):
    model = ir.serde.serialize_model(parsed(f"(float[2] x) => (float[2] y) {{ {nodes} }}"))
    verdict = directional.check(model, {"x": np.array(at, np.float32)}, "x", "y")
    assert verdict.kind == kind
    assert verdict.why.startswith(why)


@pytest.fixture
def one_small_model(tiny, monkeypatch):
    """The only classifier of `gradient_cost` is a small one that counts as ResNet-50."""

    def made(folder):
        return shutil.copy(tiny, folder / "resnet50.onnx")

    monkeypatch.setattr(gradient_cost, "MODELS", {"resnet50": made})


def test_gradient_cost_prints_every_side_and_a_verdict_for_each_limit(one_small_model, capsys):
    gradient_cost.main(["resnet50", "--batch", "1,8", "--rounds", "2"])
    out = capsys.readouterr().out
    assert "processor" in out.splitlines()[0]
    for side in gradient_cost.SIDES:
        assert out.count(f"\n  {side}  ") == 2
    verdicts = [line for line in out.splitlines() if line.startswith(("within", "BEYOND"))]
    assert len(verdicts) == 5  # three ratios at batch 8, export time, growth of the file
    assert sum("export of resnet50 without torch" in line for line in verdicts) == 1


@pytest.mark.parametrize(("ratio", "verdict"), [(2.52, "within"), (2.6, "BEYOND")])
def test_a_gradient_beyond_its_limit_is_said(ratio, verdict):
    def latency(factor):
        return gradient_cost.Latency((factor,) * 4, (factor,) * 4)

    factors = dict(zip(gradient_cost.SIDES, (1.0, 1.01, 1.0, 1.0, ratio), strict=True))
    timed = {side: latency(factor) for side, factor in factors.items()}
    one, five, image = gradient_cost._verdicts("vgg16", timed)
    assert one.startswith("within 1.06 (noise 0.010)")
    assert five.startswith("within 1.08")
    assert image.startswith(f"{verdict} 2.5")


def test_gradient_cost_profiles_own_and_emitted_nodes(one_small_model, capsys):
    gradient_cost.main(["resnet50", "--batch", "2", "--profile", "input gradient"])
    out = capsys.readouterr().out
    head, *rows = [line for line in out.splitlines() if line.startswith(("resnet50", "  "))]
    assert head.split()[-3:] == ["plain", "own", "emitted"]
    plain, own, emitted = (float(cell) for cell in rows[-1].split()[-3:])
    assert min(plain, own, emitted) > 0


def test_the_gradient_by_the_image_is_that_of_torch(tiny):
    session = onnxruntime.InferenceSession(emitted_gradient.with_image_gradient(tiny))
    image, score = session.get_inputs()[0], session.get_outputs()[0]
    tensor = np.random.default_rng(0).standard_normal((2, *image.shape[1:])).astype(np.float32)
    feed = {image.name: tensor, "class_index": np.array([[1], [2]])}
    (got,) = session.run(["attribution"], feed)
    _, expected = activations_and_gradient(tiny, image.name, score.name, tensor, np.array([1, 2]))
    np.testing.assert_allclose(got[:, 0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class TestOnTheSameSide:
    """Torch with ONNX Runtime's values in front of each kink."""

    def gradient(self, net):
        x = torch.from_numpy(tensors(2)).requires_grad_()
        (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
        return gradient.numpy()

    def test_the_gradient_is_autograds(self, tiny):
        expected = self.gradient(TorchClassifier(tiny))
        found = self.gradient(OnTheSameSide(tiny))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    def test_a_unit_is_where_onnx_runtime_has_it(self, tiny, monkeypatch):
        net = OnTheSameSide(tiny)
        run = net._session.run

        class Elsewhere:
            def run(self, names, feed):
                return [-np.abs(value) for value in run(names, feed)]

        monkeypatch.setattr(net, "_session", Elsewhere())
        np.testing.assert_array_equal(self.gradient(net), 0)

    def test_an_unknown_operator(self, tmp_path):
        with pytest.raises(NotImplementedError, match="no operator 'Softmax'"):
            TorchClassifier(saved(tiny_net("Softmax"), tmp_path / "tiny.onnx"))


@pytest.mark.slow
def test_resnet50_is_one(tmp_path):
    import classifiers

    model = onnx.load(classifiers.resnet50(tmp_path))
    weights = sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
    assert 25e6 < weights < 26e6  # He et al. 2016: 25.6 million
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53


def test_int8_maps_prints_both_formats_of_every_model(monkeypatch, tmp_path, capsys):
    path = saved(tiny_net(), tmp_path / "tiny.onnx")
    monkeypatch.setattr(int8_maps, "BUNDLED", path)
    options = ["--crops", "6", "--rounds", "2", "--seconds", "0.001"]
    int8_maps.main([path, "raw", *options])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:] if line]
    assert [row[0] for row in rows] == ["tiny", "QDQ", "QOperator"] * 2
    for row in rows:
        if row[0] != "tiny":
            count, figures = int(row[1]), [float(figure) for figure in row[4:]]
            assert 0 < count <= 6
            assert len(figures) == 6
            assert figures[0] > 0.8  # of the maps' ranks, on a net that 8 bits hold well


SCORES = np.array([1.0, 0.0])


def test_maps_that_are_the_same_agree_wholly_and_reversed_ones_not():
    class Fixed:
        def __init__(self, maps):
            self.maps = maps

        def _items(self):
            return [
                Explanation(
                    target=0, label=None, score=0.0, probability=None, method="gradcam",
                    target_layers=("relu",), attribution=None, cam=m, saliency_map=m,
                )
                for m in self.maps
            ]  # fmt: skip

        def explain(self, pictures, classes=None):
            items = self._items()
            return items if classes is None else [[item] for item in items]

        def predict(self, pictures):
            return [
                Prediction(target=0, label=None, score=0.0, probability=None, scores=SCORES)
                for _ in pictures
            ]

    maps = [np.arange(100.0).reshape(10, 10), np.zeros((10, 10))]
    pictures = [None, None]
    same = int8_maps.agreement(Fixed(maps), Fixed(maps), pictures)
    assert same == pytest.approx((1, 1.0, 1.0, 1.0, 1.0))
    count, middle, _, overlap, _ = int8_maps.agreement(
        Fixed(maps), Fixed([-m for m in maps]), pictures
    )
    assert (count, overlap) == (1, 0.0)
    assert middle == pytest.approx(-1)


def _small_resnet():
    return small_nets.ResNet(small_nets.BasicBlock).eval()


def test_conformance_measures_an_architecture_and_prints_its_row():
    row = conformance.measured("small", Architecture(_small_resnet, 32))
    assert row.oracle == "autograd"
    assert row.verdict == "ok"
    assert max(row.gradient, row.cam) <= conformance.TOLERANCE
    printed = "\n".join(conformance.report([row]))
    assert "gradient: 1 of 1 within" in printed
    assert "ok: 1 of 1" in printed


def test_conformance_fails_a_wrong_rule(monkeypatch):
    monkeypatch.setitem(VJP_RULES, "Relu", VJP_RULES["Identity"])
    row = conformance.measured("small", Architecture(_small_resnet, 32))
    assert row.verdict == "FAILED"
    assert "FAILED: 1 of 1" in "\n".join(conformance.report([row]))


def test_conformance_says_what_is_refused():
    row = conformance.measured("no map", Architecture(lambda: nn.Flatten(), 32))
    assert row.verdict != "ok"
    assert "no map: " in "\n".join(conformance.report([row]))


def test_remembered_answers_are_those_of_the_network():
    class Counted(torch.nn.Module):
        seen = 0

        def forward(self, images):
            self.seen += len(images)
            return images * 2

    net = protopnet_training.Remembered(Counted())
    images = torch.arange(12.0).reshape(4, 3)
    torch.testing.assert_close(net(images[:3]), images[:3] * 2)
    torch.testing.assert_close(net(images.flip(0)), images.flip(0) * 2)
    assert net.net.seen == 4


def test_verdicts_of_training_are_said():
    given = [[True] * 96 + [False] * 4, [True] * 93 + [False] * 7, [True] * 92 + [False] * 8]
    hits = [True] * 9 + [False]
    rows = protopnet_training.verdicts(*given, hits, "2 of 10 dropped")
    assert [row[1] for row in rows] == ["96.00 %", "93.00 %", "92.00 %", "90.0% of 10"]
    assert [row[2].partition(" ")[0] for row in rows[1:4:2]] == ["within", "within"]
    worse = protopnet_training.verdicts(given[0], [True] * 92 + [False] * 8, given[2], hits[1:], "")
    assert [row[2].partition(" ")[0] for row in worse[1:4:2]] == ["BEYOND", "BEYOND"]


def test_folds_spread_each_category():
    classes = np.repeat(np.arange(3), (11, 25, 8))
    fold = protopnet_training._folds(classes)
    for owner in range(3):
        counts = np.bincount(fold[classes == owner], minlength=protopnet_training.FOLDS)
        assert counts.max() - counts.min() <= 1


def test_composites_show_the_object_where_the_mask_says(tmp_path):
    stamp = np.zeros((40, 60, 4), np.uint8)
    stamp[10:30, 5:50] = (255, 0, 255, 255)
    Image.fromarray(stamp).save(tmp_path / "stamp.png")
    pictures, masks = stamps.composites([tmp_path / "stamp.png"], 5, seed=0)
    assert pictures.shape == (5, 224, 224, 3)
    inside = cv2.erode(masks.transpose(1, 2, 0).astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert inside.any()
    colours = pictures.transpose(1, 2, 0, 3)[inside].astype(int)
    assert np.abs(colours - (255, 0, 255)).max() <= 40  # bicubic resizing overshoots at edges


def test_lite0_as_a_torch_module(lite0):
    import lite0_module

    model = onnx.load(lite0)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(lite0_module.LAST, 1, None))
    images = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"input": images})
    with torch.no_grad():
        given = lite0_module.Lite0().eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


def test_protopnet_cost_prints_every_side_and_a_verdict_for_each_limit(monkeypatch, capsys):
    def backbone(name, folder):
        path = folder / "plain.onnx"
        onnx.save(small_backbone(8, size=32), path)
        return path

    for name, value in {"CHANNELS": 8, "CELLS": 8, "SIDE": 32, "TOP": 3}.items():
        monkeypatch.setattr(protopnet_cost, name, value)
    monkeypatch.setattr(protopnet_cost, "backbone", backbone)
    protopnet_cost.main(["--prototypes", "12", "--rounds", "2", "--seconds", "0.001"])
    out = capsys.readouterr().out
    for side in protopnet_cost.SIDES:
        assert out.count(f"\n  {side}  ") >= 2
    verdicts = [line for line in out.splitlines() if line.startswith(("within", "BEYOND"))]
    assert len(verdicts) == 2 * 3 + 2


def test_the_naive_protopnet_computes_the_same():
    """What the export is compared with in time gives the same numbers, in every output."""
    arrays = protopnet_cost.prototypes(40)
    with tempfile.TemporaryDirectory() as folder:
        files = protopnet_cost.heads(arrays, Path(folder))
        feed = {"image": np.random.default_rng(1).random((2, 128, 7, 7), np.float32)}
        results = {}
        for side, path in files.items():
            session = onnxruntime.InferenceSession(path)
            names = [value.name for value in session.get_outputs()]
            results[side] = dict(zip(names, session.run(names, feed), strict=True))
    assert len(results["naive"]) == 2
    assert len(results["naive, same outputs"]) == 6
    for side in ("naive", "naive, same outputs"):
        for name, array in results[side].items():
            np.testing.assert_allclose(array, results["head"][name], rtol=1e-3, atol=1e-4)


def test_protopnet_numerics_prints_every_variant(capsys):
    protopnet_numerics.main(["--prototypes", "40", "--pictures", "4"])
    out = capsys.readouterr().out
    assert "4 pictures, 40 prototypes, 40 matches with d < 1e-3" in out
    for variant in ("naive", "centred search", "exact minimum", "float16 search"):
        assert f"\n{variant}  " in out
    assert out.count("\nwithin ") == 3


def test_protopnet_numerics_sees_an_inexact_head():
    """Similarities that are off by 2e-5."""
    arrays = protopnet_cost.prototypes(6)
    z = np.random.default_rng(0).random((2, 128, 7, 7), np.float32)
    exact = protopnet_numerics.float64(z, arrays)
    right = {
        "similarities": exact["similarities"].astype(np.float32),
        "locations": exact["everywhere"].argmin(2),
        "logits": exact["similarities"] @ arrays.weights.T,
    }
    wrong = {**right, "similarities": right["similarities"] + np.float32(2e-5)}
    found = dict.fromkeys(("naive", "centred", "float32", "float16"), right)
    said = protopnet_numerics.report(found, exact, arrays)
    assert [line.split()[0] for line in said[-3:]] == ["within"] * 3
    said = protopnet_numerics.report({**found, "float32": wrong}, exact, arrays)
    assert said[-3].startswith("BEYOND")


def test_cells_are_normalised():
    import lite0_module

    grid = torch.rand(2, 6, 3, 3) * 1e5
    grid[0] = grid[0, :, :1, :1]  # all cells equal: the neighbours' mean is each of them
    mean = torch.rand(6) * 1e5
    grid[1] = mean[:, None, None]
    unit = lite0_module.UnitCells(mean)(grid)
    apart = grid[0, :, 0, 0] - mean
    torch.testing.assert_close(unit[0, :, 1, 2], 3 * apart / apart.norm(), rtol=1e-3, atol=1e-3)
    assert (unit[1] == 0).all()

"""The benchmark scripts run, print what they promise, and fail where they should."""

import shutil

import check_models
import cost
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_net import saved, tiny_net


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


@pytest.mark.slow
def test_resnet50_is_one(tmp_path):
    import classifiers

    model = onnx.load(classifiers.resnet50(tmp_path))
    weights = sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
    assert 25e6 < weights < 26e6  # He et al. 2016: 25.6 million
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53

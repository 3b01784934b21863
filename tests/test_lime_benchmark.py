"""The benchmark of LIME's kernels runs, prints what it promises, and fails where it should."""

import lime_kernels
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few rows, and lime's own bar put back afterwards."""
    monkeypatch.setattr(lime_kernels.lime.lime_image, "tqdm", lime_kernels.lime.lime_image.tqdm)
    monkeypatch.setattr(lime_kernels, "PHOTOS", ("astronaut",))
    monkeypatch.setattr(lime_kernels, "BATCHES", (1, 4))
    monkeypatch.setattr(lime_kernels, "LIME_MASKS", 10)


SMALL = ["--rounds", "2", "--size", "48", "--samples", "60"]


def test_it_prints_equalities_and_a_verdict_for_each_bound(capsys):
    lime_kernels.main(SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert "processor" in lines[0]
    assert "lime 0.2.0.1" in lines[0]
    assert sum(line.startswith("bit-equal: ") for line in lines) == 4
    assert sum(line.startswith("equal: ") for line in lines) == 6
    verdicts = [line for line in lines if line.endswith(("within", "BEYOND"))]
    assert len(verdicts) == 2 + 1 + 4 + 1
    assert not any("DIFFERENT" in line for line in lines)


def test_a_difference_is_said(monkeypatch, capsys):
    right = lime_kernels.compat.neighborhood.fill

    def wrong(*arguments):
        return np.bitwise_xor(right(*arguments).view(np.uint8), 1).view(arguments[0].dtype)

    monkeypatch.setattr("xai_onnx.lime.compat.explainer.fill", wrong)
    assert lime_kernels.main(SMALL) == 1
    assert "DIFFERENT: astronaut, uint8: masks, fills" in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "verdict"), [(1.7, "within"), (1.9, "BEYOND")])
def test_a_ratio_beyond_its_bound_is_said(ratio, verdict):
    def latency(factor):
        return lime_kernels.Latency((factor,) * 4, (factor,) * 4)

    timed = {"composing": latency(ratio), "a copy": latency(1.0)}
    first, _ = lime_kernels._rows(timed, "≤ 1.8", lambda r: r <= 1.8)
    assert first[-1] == verdict


def test_features_in_another_order_are_different():
    assert lime_kernels._close("fit", 0.0, ordered=False).startswith("DIFFERENT")
    assert lime_kernels._close("fit", 1e-11, ordered=True).startswith("DIFFERENT")
    assert lime_kernels._close("fit", 1e-13, ordered=True).startswith("equal")

"""The comparison with pytorch-grad-cam and captum; runs in their environment only."""

import shutil

import numpy as np
import pytest

pytest.importorskip("pytorch_grad_cam", reason="see benchmarks/requirements-oracles.txt")
pytest.importorskip("captum", reason="see benchmarks/requirements-oracles.txt")

import oracles


@pytest.fixture
def folder(tiny, tmp_path):
    shutil.copy(tiny, tmp_path / "tiny.onnx")
    return str(tmp_path)


def test_every_method_is_compared(folder, capsys):
    assert oracles.main([folder]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    verdicts = [row for row in rows if row[:1] == ["tiny"] and row[-1] == "ok"]
    for method in oracles.CAM_CLASSES:
        assert sum(method in row for row in verdicts) == 3  # two layers, and both
    for method in oracles.ATTRIBUTION_METHODS:
        assert sum(method in row for row in verdicts) == 1


@pytest.mark.parametrize("part", ["ours", "captum_says"])
def test_a_difference_is_said(folder, monkeypatch, capsys, part):
    right = getattr(oracles, part)

    def wrong(*arguments):
        found = right(*arguments)
        if part == "ours":
            return found[0] * np.float32(1.001), found[1]
        return found * 1.001

    monkeypatch.setattr(oracles, part, wrong)
    assert oracles.main([folder]) == 1
    assert "BEYOND" in capsys.readouterr().out

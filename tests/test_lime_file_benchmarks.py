"""The benchmarks of LIME in a file and of int8 drafts run, print what they promise, and judge."""

import lime_draft
import lime_in_graph
import numpy as np
import pytest
from PIL import Image

from xai_onnx.measure import Latency


def latency(factor):
    return Latency((factor,) * 4, (factor,) * 4)


def test_the_file_is_compared_with_forwards_and_host(tiny, capsys):
    lime_in_graph.main([tiny, "--preprocess", "unit", "--samples", "300", "--rounds", "2"])
    out = capsys.readouterr().out
    for side in ("forwards alone", "twin", "one run of the file", "Model.lime"):
        assert out.count(f"\n  {side}  ") == 1
    *_, cost, difference = out.splitlines()
    assert cost.startswith(("within 1.05", "BEYOND 1.05"))
    assert difference.startswith("within 0.0001")


@pytest.mark.parametrize(
    ("ratio", "difference", "words"),
    [(1.04, 1e-6, ("within", "within")), (1.2, 1e-3, ("BEYOND", "BEYOND"))],
)
def test_what_is_beyond_a_limit_is_said(ratio, difference, words):
    timed = {
        lime_in_graph.ALONE: latency(1.0),
        lime_in_graph.TWIN: latency(1.01),
        lime_in_graph.FILE: latency(ratio),
    }
    lines = list(lime_in_graph.judged("net", timed, difference))
    assert tuple(line.split()[0] for line in lines) == words


def test_the_draft_is_compared_with_lime(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lime_draft, "BUNDLED", tiny)
    monkeypatch.setattr(lime_draft, "RECIPE", "unit")
    monkeypatch.setattr(lime_draft, "CALIBRATION", 2)
    command = ["--pictures", "coffee", "--samples", "256", "--seeds", "2", "--converged", "512"]
    command += ["--rounds", "1", "--cache", str(tmp_path), "--plot", str(tmp_path / "p.png")]
    lime_draft.main([*command, "--deadline", "0.5"])
    out = capsys.readouterr().out
    assert "forwards a second: float32 " in out
    for score in ("logit", "probability"):
        for side in lime_draft.SIDES:
            assert f"\n  {score}, {side}  " in out
        assert f"  lime, {score}: error " in out
    assert "of the top 3" in out
    verdicts = [line for line in out.splitlines() if line.startswith(("within", "BEYOND"))]
    assert len(verdicts) == len(lime_draft.WANTED)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (1120, 420)
    assert len(list(tmp_path.glob("coffee-512-*.npy"))) == 2  # of quickshift and of the grid


def test_where_a_curve_crosses():
    counts, errors = [100, 400, 1600], np.array([0.4, 0.2, 0.1])
    assert lime_draft.crossing(counts, errors, 0.2) == 400
    assert lime_draft.crossing(counts, errors, 0.4 / np.sqrt(2)) == 200
    assert lime_draft.crossing(counts, errors, 0.5) == 100
    assert lime_draft.crossing(counts, errors, 0.05) is None


def test_the_error_is_relative():
    assert lime_draft.error(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == pytest.approx(0.2)

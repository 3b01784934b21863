"""The LIME benchmark scripts run, print what they promise, and fail where they should."""

import lime_designs
import lime_total
import pytest
from tiny_net import saved, tiny_net


def test_total_prints_every_side_and_a_verdict(tmp_path, capsys):
    path = saved(tiny_net(), tmp_path / "tiny.onnx")
    lime_total.main([path, "--samples", "30", "--rounds", "2"])
    out = capsys.readouterr().out
    assert "processor" in out.splitlines()[0]
    for side in ("forwards alone", "twin", "xai_onnx", "lime"):
        assert out.count(f"\n  {side}  ") == 1
    assert out.splitlines()[-1].startswith(("within 1.04 + noise", "BEYOND 1.04 + noise"))


def test_total_without_the_original(tmp_path, capsys):
    path = saved(tiny_net(), tmp_path / "tiny.onnx")
    lime_total.main([path, "--samples", "10", "--rounds", "2", "--without-lime"])
    assert "\n  lime  " not in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "verdict"), [(1.03, "within"), (1.2, "BEYOND")])
def test_a_total_beyond_its_limit_is_said(ratio, verdict):
    def latency(factor):
        return lime_total.Latency((factor,) * 4, (factor,) * 4)

    timed = {"forwards alone": latency(1.0), "twin": latency(1.01), "xai_onnx": latency(ratio)}
    (line,) = lime_total.judged("net", timed)
    assert line.startswith(f"{verdict} 1.04 + noise 0.010")


def test_designs_print_errors_and_verdicts(capsys):
    lime_designs.main(["--samples", "512,1024", "--seeds", "4", "--truth", "20000"])
    out = capsys.readouterr().out
    for name in lime_designs.functions():
        assert out.count(f"\n{name}  ") == 1
    assert out.count("\n  N = 512 ") == 5
    verdicts = [line for line in out.splitlines() if line.startswith(("within", "BEYOND"))]
    assert len(verdicts) == 11  # of five functions the errors of two designs, and a ratio
    assert any(
        line.startswith("within 0.85: foldover / iid, sigmoid, N = 512") for line in verdicts
    )


def test_designs_that_do_not_keep_their_promise_are_said():
    found = {"iid": (0.1, 1.0), "foldover": (0.09, 0.7), "glime": (0.1, 1.0)}
    found[lime_designs.ADJUSTED] = (0.05, 1.0)
    (ratio,) = lime_designs.judged("sigmoid", 512, found)
    assert ratio.startswith("BEYOND 0.85: foldover / iid, sigmoid, N = 512: 0.900")
    one, other = lime_designs.judged("sharp", 1024, found)
    promise = "0.8-1.25: estimated / true error"
    assert one.startswith(f"BEYOND {promise}, foldover, sharp, N = 1024")
    assert other.startswith(f"within {promise}, adjusted, sharp, N = 1024")

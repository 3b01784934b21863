"""Nothing here depends on how long anything takes: the clock is the test's own."""

import builtins

import pytest

from xai_onnx import measure
from xai_onnx.measure import Latency, environment, rotate


@pytest.fixture
def clock(monkeypatch):
    """A clock that each side moves on by its own seconds."""
    now = [100.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


def side(clock, name, seconds, calls):
    def run():
        calls.append(name)
        clock[0] += seconds

    return run


def test_blocks_take_turns_and_the_order_is_reversed(clock):
    calls, done = [], []
    sides = {name: side(clock, name, 1, calls) for name in "abc"}
    rotate(sides, rounds=3, calls=2, warmup=1, progress=lambda: done.append(len(calls)))
    assert "".join(calls) == "aaabbbccc" + "cccbbbaaa" + "aaabbbccc"
    assert done == list(range(3, 28, 3))


def test_warm_up_calls_are_not_timed(clock):
    lengths = iter([9, 9, 1, 2, 9, 9, 3, 4])

    def run():
        clock[0] += next(lengths)

    latency = rotate({"a": run}, rounds=2, calls=2, warmup=2)["a"]
    assert latency.samples == pytest.approx((1000, 2000, 3000, 4000))
    assert latency.blocks == pytest.approx((1500, 3500))


def test_figures_of_one_side():
    latency = Latency(tuple(float(i) for i in range(1, 101)), (50.5,))
    assert latency.median == 50.5
    assert latency.percentile(0) == 1
    assert latency.percentile(95) == pytest.approx(95.05)


def test_a_ratio_compares_blocks_of_the_same_round():
    slow = Latency((0.0,), (2.0, 30.0, 8.0, 50.0, 3.0))
    fast = Latency((0.0,), (1.0, 10.0, 2.0, 10.0, 0.5))
    assert slow.ratio(fast) == (4.0, 3.0, 5.0)
    assert fast.ratio(fast) == (1.0, 1.0, 1.0)


def test_the_environment_names_processor_and_versions(monkeypatch):
    versions = {"onnx": "1.0", "numpy": "2.0"}

    def version(package):
        if package not in versions:
            raise measure.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(measure.metadata, "version", version)
    found = environment()
    assert {"processor", "cores", "system", "onnx", "numpy"} == set(found)
    assert int(found["cores"]) >= 1
    assert found["processor"]


def test_without_proc_the_platform_names_the_processor(monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(measure.platform, "processor", lambda: "")
    monkeypatch.setattr(measure.platform, "machine", lambda: "abacus")
    assert environment()["processor"] == "abacus"


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(measure.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 7)
    assert environment()["cores"] == "7"

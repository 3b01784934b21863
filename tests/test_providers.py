import re

import pytest

from xai_onnx.errors import ProviderError
from xai_onnx.providers import EXECUTION_PROVIDERS, check_in_use, resolve

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ALL = [row.name for row in EXECUTION_PROVIDERS.values()]


def test_none_is_the_cpu():
    assert resolve(None, ALL) == [(CPU, {})]


@pytest.mark.parametrize("short", EXECUTION_PROVIDERS)
def test_short_and_full_names(short):
    full = EXECUTION_PROVIDERS[short].name
    assert resolve([short], ALL) == resolve([short.upper()], ALL) == resolve([full], ALL)
    assert resolve([short], ALL) == [(full, {})]


def test_order_and_options_are_kept():
    options = {"device_id": 1}
    found = resolve([("cuda", options), "cpu"], ALL)
    assert found == [(CUDA, {"device_id": 1}), (CPU, {})]
    assert found[0][1] is not options


@pytest.mark.parametrize("short", [name for name in EXECUTION_PROVIDERS if name != "cpu"])
def test_a_provider_that_this_onnxruntime_lacks(short):
    row = EXECUTION_PROVIDERS[short]
    message = f"{short!r} is not in this ONNX Runtime, which has {CPU}; {row.install}"
    with pytest.raises(ProviderError, match=re.escape(message)):
        resolve(["cpu", short], [CPU])


def test_an_unknown_provider():
    with pytest.raises(ProviderError, match="no execution provider 'npu'; one of cpu, cuda"):
        resolve(["npu"], ALL)


def test_no_provider():
    with pytest.raises(ProviderError, match="no execution provider is asked for; name one of cpu"):
        resolve([], ALL)


def test_the_providers_in_use_are_those_asked_for():
    check_in_use([(CPU, {})], [CPU])
    check_in_use([(CUDA, {})], [CUDA, CPU])


def test_a_provider_that_onnxruntime_left_out():
    message = f"{CUDA} could not be started, the session would run on {CPU}; .*ask for another"
    with pytest.raises(ProviderError, match=message):
        check_in_use([(CUDA, {}), (CPU, {})], [CPU])

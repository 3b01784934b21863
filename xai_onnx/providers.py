"""Execution providers: one row for each that a model can be opened with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xai_onnx.errors import ProviderError

ProviderLike = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ExecutionProvider:
    """A provider of ONNX Runtime, and what to install to have it."""

    name: str
    install: str


EXECUTION_PROVIDERS: dict[str, ExecutionProvider] = {
    "cpu": ExecutionProvider("CPUExecutionProvider", "pip install 'xai-onnx[cpu]'"),
    "cuda": ExecutionProvider(
        "CUDAExecutionProvider", "pip install 'xai-onnx[gpu]', with CUDA and cuDNN"
    ),
    "tensorrt": ExecutionProvider(
        "TensorrtExecutionProvider", "pip install 'xai-onnx[gpu]', with CUDA and TensorRT"
    ),
    "openvino": ExecutionProvider("OpenVINOExecutionProvider", "pip install onnxruntime-openvino"),
    "coreml": ExecutionProvider("CoreMLExecutionProvider", "pip install 'xai-onnx[cpu]' on macOS"),
    "directml": ExecutionProvider("DmlExecutionProvider", "pip install onnxruntime-directml"),
}


def resolve(
    providers: Sequence[ProviderLike] | None, available: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Turn short or full provider names, alone or with options, into what ONNX Runtime takes.

    Args:
        providers: in order of preference, e.g. ``["cuda"]``, ``["CUDAExecutionProvider"]`` or
            ``[("cuda", {"device_id": 1})]``; ``None``: the CPU.
        available: `onnxruntime.get_available_providers()`.

    Raises:
        ProviderError: none, a name that doesn't exist, or a provider that this ONNX Runtime wasn't
            built with. ONNX Runtime itself would warn and run on the CPU.
    """
    full_names = {row.name: row for row in EXECUTION_PROVIDERS.values()}
    resolved: list[tuple[str, dict[str, Any]]] = []
    for provider in ["cpu"] if providers is None else providers:
        name, options = (provider, {}) if isinstance(provider, str) else provider
        row = EXECUTION_PROVIDERS.get(name.lower()) or full_names.get(name)
        if row is None:
            raise ProviderError(
                f"there is no execution provider {name!r}; one of {', '.join(EXECUTION_PROVIDERS)}"
            )
        if row.name not in available:
            raise ProviderError(
                f"execution provider {name!r} is not in this ONNX Runtime, which has "
                f"{', '.join(available)}; {row.install}"
            )
        resolved.append((row.name, dict(options)))
    if not resolved:
        raise ProviderError(
            f"no execution provider is asked for; name one of {', '.join(EXECUTION_PROVIDERS)}"
        )
    return resolved


def check_in_use(asked: Sequence[tuple[str, Mapping[str, Any]]], in_use: Sequence[str]) -> None:
    """Compare the providers of an open session with those asked for.

    Raises:
        ProviderError: ONNX Runtime left one out (a missing library, no device).
    """
    for name, _ in asked:
        if name not in in_use:
            raise ProviderError(
                f"{name} could not be started, the session would run on {', '.join(in_use)}; see "
                "ONNX Runtime's message above for the library or device that it misses, or ask "
                "for another provider"
            )

"""ATTEMPTS: the ways to export, in the order in which they are tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET_DYNAMO, OPSET_TORCHSCRIPT = 20, 18

Inputs = tuple[Tensor, ...]
Attempt = Callable[[nn.Module, Inputs, list[str], str, Path], None]

ATTEMPTS: dict[str, Attempt] = {}


def attempt(name: str) -> Callable[[Attempt], Attempt]:
    """Enter a way to export into `ATTEMPTS`, in the order in which they are tried."""

    def enter(function: Attempt) -> Attempt:
        if name in ATTEMPTS:
            raise ValueError(f"two ways to export called {name!r}")
        ATTEMPTS[name] = function
        return function

    return enter


@attempt(f"dynamo, opset {OPSET_DYNAMO}")
def dynamo(module: nn.Module, inputs: Inputs, names: list[str], output: str, path: Path) -> None:
    """torch.export's graph, translated; the batch is free."""
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        module,
        inputs,
        str(path),
        dynamo=True,
        opset_version=OPSET_DYNAMO,
        input_names=names,
        output_names=[output],
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        verbose=False,
    )


@attempt(f"dynamo, opset {OPSET_DYNAMO}, math attention")
def dynamo_math_attention(
    module: nn.Module, inputs: Inputs, names: list[str], output: str, path: Path
) -> None:
    """The same, scaled_dot_product_attention restricted to the implementation of plain products."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dynamo(module, inputs, names, output, path)


@attempt(f"dynamo, opset {OPSET_DYNAMO}, eager attention")
def dynamo_eager_attention(
    module: nn.Module, inputs: Inputs, names: list[str], output: str, path: Path
) -> None:
    """The same, scaled_dot_product_attention replaced by `attention`."""
    functional = torch.nn.functional
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attention
    try:
        dynamo(module, inputs, names, output, path)
    finally:
        functional.scaled_dot_product_attention = before


@attempt(f"TorchScript, opset {OPSET_TORCHSCRIPT}")
def torchscript(
    module: nn.Module, inputs: Inputs, names: list[str], output: str, path: Path
) -> None:
    """The old exporter, which traces."""
    torch.onnx.export(
        module,
        inputs,
        str(path),
        dynamo=False,
        opset_version=OPSET_TORCHSCRIPT,
        input_names=names,
        output_names=[output],
        dynamic_axes={name: {0: "batch"} for name in [*names, output]},
        training=torch.onnx.TrainingMode.PRESERVE,  # else BatchNorm is folded, its name lost
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v, scale = 1 / sqrt(last axis of q).

    The arguments are those of torch's scaled_dot_product_attention; nothing is dropped out.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value

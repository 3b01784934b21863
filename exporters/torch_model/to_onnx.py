"""Export a module by the first attempt whose model gives what the module gives."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from torch import Tensor, nn

from exporters import ort
from exporters.torch_export import TorchExport
from exporters.torch_model.attempts import ATTEMPTS, Attempt, Inputs
from exporters.torch_model.state import as_for_export, quiet
from exporters.torch_model.values import array, distance, is_close, logits, scores
from xai_onnx.errors import InputShapeError, ModelFileError, TorchExportError, reason

STACK_TRACE = "pkg.torch.onnx.stack_trace"


def is_module(made: object) -> bool:
    """Whether this is a torch module."""
    return isinstance(made, nn.Module)


def export(
    module: nn.Module,
    example_input: Tensor | Sequence[Tensor] | None = None,
    *,
    attempts: Mapping[str, Attempt] = MappingProxyType(ATTEMPTS),
) -> TorchExport:
    """Export a classifier, with a free batch size.

    Args:
        module: its forward takes a batch of images and gives the scores; a dictionary or an object
            with ``logits`` (transformers) stands for these, a tuple or list for its first tensor.
            It is exported as in evaluation mode.
        example_input: what to call it with: a tensor [B, C, H, W], or a tuple where it takes
            several; ``None``: noise of the size that its transformers config names.
        attempts: the ways to try, in order.

    Raises:
        InputShapeError: no example was given, and none can be inferred.
        TorchExportError: the module can't run, or no attempt gives a model that does the same.
    """
    name = type(module).__name__
    inputs = _batch_of_two(_example(module, example_input))
    if any(x.dtype == torch.bfloat16 for x in inputs):
        raise TorchExportError(
            f"{name}: is in bfloat16, which ONNX Runtime doesn't run on the CPU; export a copy in "
            "float32, copy.deepcopy(module).float()"
        )
    names = _input_names(module, len(inputs))
    failures: list[tuple[str, str]] = []
    with as_for_export(module), tempfile.TemporaryDirectory() as folder:
        output = _run(module, inputs, name)
        net = _with_one_output(module, names, output)
        result = "scores" if logits(output) is None else "logits"
        batches = [inputs, tuple(torch.cat([x, x[:1]]) for x in inputs)]
        expected = [array(net(*batch)) for batch in batches]
        for way, write in attempts.items():
            path = Path(folder) / f"{len(failures)}.onnx"
            try:
                with quiet():
                    write(net, inputs, names, result, path)
                model = ir.external_data.load_to_model(ir.load(path))
                common.ShapeInferencePass()(model)  # the TorchScript exporter notes few types
            except Exception as error:  # the exporters raise whatever they meet
                failures.append((way, _short(error)))
                continue
            if not ort.fits_one_file(model):
                raise TorchExportError(
                    f"{name}: has more than 2 GB of weights; write it to an .onnx file with "
                    "torch.onnx.export, then explain that file"
                )
            try:
                difference = _difference(model, names, batches, expected)
            except ModelFileError as error:
                failures.append((way, reason(error)))
                continue
            if difference is not None:
                for node in model.graph.all_nodes():
                    node.metadata_props.pop(STACK_TRACE, None)  # where sources lie, line by line
                return TorchExport(
                    model,
                    name,
                    exporter=way,
                    failures=tuple(failures),
                    difference=difference,
                    module=module,
                    inputs=inputs,
                    inferred=example_input is None,
                )
            failures.append((way, "the outputs of the ONNX model are not those of the module"))
    tried = "; ".join(
        f"{', '.join(way for way, reason in failures if reason == why)}: {why}"
        for why in dict.fromkeys(why for _, why in failures)
    )
    raise TorchExportError(
        f"{name}: torch can't export it to ONNX with a free batch size; tried {tried}; change what "
        "is named, or give an .onnx file"
    )


def _example(module: nn.Module, given: Tensor | Sequence[Tensor] | None) -> Inputs:
    """The example as a tuple of tensors."""
    if given is None:
        return (_noise(module),)
    inputs = (given,) if isinstance(given, Tensor) else tuple(given)
    if not inputs or not all(isinstance(x, Tensor) and x.ndim for x in inputs):
        raise InputShapeError("example_input must be a tensor [B, C, H, W], or a tuple of tensors")
    return tuple(x.detach() for x in inputs)


def _noise(module: nn.Module) -> Tensor:
    config = getattr(module, "config", None)
    size = getattr(config, "image_size", None)
    sizes = [size, size] if isinstance(size, int) else list(size or ())
    if len(sizes) != 2:
        raise InputShapeError(
            f"{type(module).__name__}: an example input is needed: example_input=torch.rand(1, 3, "
            "224, 224), or --input-shape 1,3,224,224, in the size that the model takes"
        )
    return noise(module, (2, getattr(config, "num_channels", 3), *sizes))


def noise(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """A standard normal example of the module's own floating type, on its own device."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return torch.from_numpy(values).to(like)


def _batch_of_two(inputs: Inputs) -> Inputs:
    """At least two rows: torch.export takes a size of one for a constant."""
    return tuple(torch.cat([x, x.flip(-1)]) if len(x) == 1 else x for x in inputs)


def _input_names(module: nn.Module, count: int) -> list[str]:
    """The names of forward's first parameters, where it names that many."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in kinds][:count]
    return names if len(names) == count else [f"input_{index}" for index in range(count)]


def _run(module: nn.Module, inputs: Inputs, name: str) -> Any:
    try:
        return module(*inputs)
    except Exception as error:  # the module is the user's own
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise TorchExportError(
            f"{name}: can't run on the example input {shapes}: {reason(error)}"
        ) from error


def _with_one_output(module: nn.Module, names: Sequence[str], output: Any) -> nn.Module:
    """The module, or a copy of it that shares its parts and gives the scores alone."""
    if isinstance(output, Tensor):
        return module
    name = type(module).__name__
    if scores(output) is None:
        keys = f" with {', '.join(output)}" if isinstance(output, Mapping) else ""
        raise TorchExportError(
            f"{name}: gives a {type(output).__name__}{keys}; wrap it in a module whose forward "
            "returns the scores, a tensor [B, N]"
        )
    inner = module.forward

    def forward(_self: nn.Module, *inputs: Tensor) -> Any:
        return scores(inner(*inputs))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(parameter, kind) for parameter in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    single = copy.copy(module)
    vars(single).pop("forward", None)  # what a library set at this one object
    single.__class__ = type(name, (type(module),), {"forward": forward})
    return single


def _difference(
    model: ir.Model,
    names: Sequence[str],
    batches: Sequence[Inputs],
    expected: Sequence[NDArray[Any]],
) -> float | None:
    """How far the ONNX model is from the module, relative to its largest output; None: too far.

    The batches have different sizes, so that one which was frozen shows.
    """
    session = ort.open_model(model, "the ONNX model")
    worst = 0.0
    for batch, wanted in zip(batches, expected, strict=True):
        feed = dict(zip(names, map(array, batch), strict=True))
        (given,) = ort.run(session, [str(model.graph.outputs[0].name)], feed, "the ONNX model")
        if not is_close(given, wanted):
            return None
        worst = max(worst, distance(given, wanted))
    return worst


def _short(error: BaseException) -> str:
    """The first line of what lies at the bottom of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reason(ValueError(lines[0] if lines else type(error).__name__))

"""The target layer of an exported module, checked against the module."""

from __future__ import annotations

import difflib
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from exporters import module_path, ort
from exporters.torch_export import TorchExport
from exporters.torch_model.attempts import Inputs
from exporters.torch_model.state import as_for_export
from exporters.torch_model.values import array, is_close, tensors
from xai_onnx.errors import TargetLayerError


def layer(exported: TorchExport, target: str | nn.Module) -> str:
    """The name of the ONNX value that is the output of a submodule of the exported module.

    What the graph says is checked against what the module gives on the example input: that decides
    where the graph leaves a doubt. Of a module that gives several tensors it is the one that the
    rest of the network reads.

    Args:
        exported: from `export`.
        target: the submodule, or its path as in ``named_modules()``; any other name is that of an
            ONNX value or node, and comes back as it is.

    Raises:
        TargetLayerError: the module has no value of its own in the ONNX graph, or isn't called
            exactly once.
    """
    net: nn.Module = exported.module
    parts = dict(net.named_modules(remove_duplicate=False))
    paths = module_path.Modules(exported.model.graph)
    if isinstance(target, nn.Module):
        path = next((path for path, part in parts.items() if part is target), None)
        if path is None:
            raise TargetLayerError(
                f"target layer {type(target).__name__} is no part of {exported.name}"
            )
    else:
        path = target if target in parts else paths.full(target)
    if path is None or path not in parts:
        return _onnx_name(exported, str(target), list(parts))
    what = f"{exported.name}: module {path!r} ({type(parts[path]).__name__})"
    expected = _given(net, parts[path], exported.inputs, what)
    full = paths.full(path)
    found = module_path.Found(None) if full is None else paths.output(full)
    if found.value is not None:
        given = _at(exported, found.value)
        if any(is_close(given, tensor) for tensor in expected):
            return str(found.value.name)
    raise TargetLayerError(
        f"{what}: has no value of its own in the ONNX graph{found.doubt and ': ' + found.doubt}; "
        f"{paths.instead(path)}take a module around it"
    )


def _onnx_name(exported: TorchExport, name: str, paths: list[str]) -> str:
    nodes = list(exported.model.graph)
    names = {str(value.name) for node in nodes for value in node.outputs}
    if name in names.union(str(node.name) for node in nodes):
        return name
    near = difflib.get_close_matches(name, paths, n=3)
    hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    raise TargetLayerError(
        f"{exported.name}: there is no module {name!r}, nor an ONNX value of that name; {hint}see "
        "named_modules()"
    )


def _given(net: nn.Module, module: nn.Module, inputs: Inputs, what: str) -> list[NDArray[Any]]:
    """The tensors that the module gives, the one time that it is called."""
    given: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    try:
        with as_for_export(net):
            net(*inputs)
    finally:
        hook.remove()
    if len(given) != 1:
        times = f"{len(given)} times, which makes it ambiguous" if given else "never"
        raise TargetLayerError(f"{what}: is called {times}; take a module that is called once")
    return [array(tensor) for tensor in tensors(given[0])]


def _at(exported: TorchExport, value: ir.Value) -> NDArray[Any]:
    """The value in the ONNX model, on the example input."""
    graph = exported.model.graph
    added = value not in graph.outputs
    if added:
        graph.outputs.append(value)
    try:
        session = ort.open_model(exported.model, exported.name)
    finally:
        if added:
            graph.outputs.pop()
    feed = {str(x.name): array(t) for x, t in zip(graph.inputs, exported.inputs, strict=True)}
    return ort.run(session, [str(value.name)], feed, exported.name)[0]

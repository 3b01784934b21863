"""Torch module path <-> ONNX value, read from what torch's exporters note in the file.

The new exporter notes at each node the modules that it was called in (``name_scopes``) and the
operation of torch that it stands for (``fx_node``); the TorchScript one names nodes by these
modules (``/layer4/layer4.1/conv2/Conv``).

The output of a module is the last value of its nodes that is read outside of it. Optimisers have
moved the border of some modules, and what they leave may be another value, so it is refused where

1. nothing is left of the module: Identity, Dropout, a Conv that became part of its BatchNorm;
2. it was called more than once: nodes of others lie between its own;
3. several of its values are read outside;
4. a Conv into which a BatchNorm was folded stands on the border: the new exporter gives it to the
   BatchNorm's module, the TorchScript one to the Conv's;
5. the node outside that reads the value read another one in torch: something in between is gone,
   a Transpose for example, which may have been the module's own;
6. TorchScript, where the latter isn't noted: the value comes from a Reshape, or is channels-last.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporters.graph import descendants
from xai_onnx.errors import TargetLayerError

SCOPES = "pkg.torch.onnx.name_scopes"
OPERATION = "pkg.torch.onnx.fx_node"
RULES = "pkg.onnxscript.rewriter.rule_name"
FOLDED = "FuseBatchNormIntoConv"

# Rewriting rules that leave the first input of a node as it is.
_HARMLESS = frozenset(
    {"MaterializeReshapeShape", "RemoveOptionalBiasFromConv", "RemoveOptionalBiasFromGemm"}
)
# Operations of torch that may only pass a tensor on; they are left out where they do.
_PASSES_ON = re.compile(r"(clone|alias|detach|dropout|contiguous|lift_fresh_copy|slice)(_\d+)?")
_REFERENCE = re.compile(r"%(\w+)")
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Found:
    """The value that should be a module's output, and why it may not be."""

    value: ir.Value | None
    doubt: str = ""


def resolve(graph: ir.Graph, name: str) -> ir.Value | None:
    """The value that is the output of the torch module `name`; None where it is no module's path.

    Args:
        graph: as torch's exporters wrote it, its types inferred.
        name: path of a module, as in ``named_modules()``; the prefix of modules that hold the
            whole network may be left out.

    Raises:
        TargetLayerError: the module's output isn't in the graph, or can't be told.
    """
    modules = Modules(graph)
    path = modules.full(name)
    if path is None:
        return None
    found = modules.output(path)
    if found.doubt:
        raise TargetLayerError(
            f"module {name!r}: {found.doubt}; {modules.instead(path)}see xai-onnx inspect"
        )
    return found.value


def of(value: ir.Value) -> str | None:
    """The outermost torch module whose output the value is, where torch's exporter noted it."""
    node = value.producer()
    if node is None or not isinstance(node.graph, ir.Graph):
        return None
    modules = Modules(node.graph)
    return next((p for p in modules.around(node) if modules.output(p) == Found(value)), None)


class Modules:
    """The modules of a graph, and which nodes each of them holds."""

    def __init__(self, graph: ir.Graph) -> None:
        self._nodes = list(graph)
        self._outputs = set(graph.outputs)
        self._from_image = set().union(*(descendants(value) for value in graph.inputs))
        self._around = {node: _noted(node) for node in self._nodes}
        known = [set(paths) for paths in self._around.values() if paths]
        self._paths = set().union(*known)
        self._around_all = sorted(set.intersection(*known) if known else (), key=len)

    def around(self, node: ir.Node) -> Sequence[str]:
        """The paths of the modules that the node lies in, outermost first."""
        return self._around[node]

    def full(self, name: str) -> str | None:
        """The path as the graph has it; None if there is no such module."""
        for path in (name, *(f"{prefix}.{name}" for prefix in self._around_all)):
            if path in self._paths or (self._paths and self._with_weights_of(path)):
                return path
        return None

    def output(self, path: str) -> Found:
        """The last value of the module that is read outside of it, and what speaks against it."""
        own = [node for node in self._nodes if path in self._around[node]]
        inside = set(own)
        read, used = [], []
        for node in own:
            for value in self._from_image.intersection(node.outputs):
                readers = [reader for reader in value.consumers() if reader not in inside]
                if readers or value in self._outputs:
                    read.append(value)
                if value in self._outputs or any(r.op_type not in _SIZES for r in readers):
                    used.append(value)
        if not used:
            return Found(None, "nothing of it is left in the graph")
        doubts = self._doubts(path, own, used, read)
        return Found(used[-1], next(doubts, ""))

    def instead(self, path: str) -> str:
        """Which module to take in place of this one, for a message; empty if none is near."""
        near = [self._around[node][-1:] for node in self._with_weights_of(path)]
        parts = path.split(".")
        parents = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
        for candidate in (*(paths[0] for paths in near if paths), *parents):
            found = self.output(candidate)
            if candidate != path and found.value is not None and not found.doubt:
                return f"take {candidate!r}, or "
        return ""

    def _doubts(
        self,
        path: str,
        own: Sequence[ir.Node],
        used: Sequence[ir.Value],
        read: Sequence[ir.Value],
    ) -> Iterator[str]:
        value, inside = used[-1], set(own)
        between = self._nodes[self._nodes.index(own[0]) : self._nodes.index(own[-1])]
        others = [node for node in between if node not in inside and _is_noted(node)]
        if any(not self._from_image.isdisjoint(node.outputs) for node in others):
            yield "it is called more than once"
        if len(used) > 1 or read[-1] is not value:
            names = ", ".join(repr(item.name) for item in dict.fromkeys([*used, *read]))
            yield f"several of its values are read outside: {names}"
        producer = value.producer()
        assert producer is not None
        if SCOPES in producer.metadata_props:
            name = _operation(producer) if value in self._outputs else str(value.name)
            for reader in value.consumers():
                if reader not in inside:
                    yield from _border_doubts(reader, name, path)
            return
        yield from self._numbered_calls(path)
        if _has_anonymous_weights(producer):
            yield "it ends in a Conv into which a BatchNorm was folded, its own or another"
        if producer.op_type == "Reshape" or self._is_channels_last(producer, inside):
            yield "a Transpose at its end may have been merged with one behind it"

    def _is_channels_last(self, node: ir.Node, inside: set[ir.Node]) -> bool:
        """Whether the module itself brought its last feature maps into the layout [B, h, w, C]."""
        producer: ir.Node | None = node
        while producer in inside and producer.op_type not in ("Transpose", "Reshape"):
            floats = [value for value in producer.inputs if value in self._from_image]
            producer = floats[0].producer() if floats else None
        if producer is node or producer not in inside or producer.op_type != "Transpose":
            return False
        return list(producer.attributes["perm"].as_ints()) == [0, 2, 3, 1]

    def _numbered_calls(self, path: str) -> Iterator[str]:
        """TorchScript calls the second call of "relu" "relu_1", which may be another module too."""
        first = re.sub(r"_\d+$", "", path)
        calls = sorted(p for p in self._paths if re.fullmatch(re.escape(first) + r"(_\d+)?", p))
        if first in calls and not all(map(self._has_own_weights, calls)) and len(calls) > 1:
            yield f"it may be called more than once ({', '.join(calls)})"

    def _has_own_weights(self, path: str) -> bool:
        return any(path in self._around[node] for node in self._with_weights_of(path))

    def _with_weights_of(self, path: str) -> list[ir.Node]:
        """The nodes that read a weight of the module, or of one inside it."""
        return [node for node in self._nodes if _reads_weights(node, path)]


def _noted(node: ir.Node) -> tuple[str, ...]:
    """The modules around a node, outermost first; none where the file doesn't say."""
    scopes = node.metadata_props.get(SCOPES)
    if scopes is not None:
        return tuple(path for path in ast.literal_eval(scopes)[:-1] if path)
    if not _is_noted(node):
        return ()
    paths: list[str] = []
    before = ""
    for part in str(node.name).split("/")[1:-1]:
        # An element of a Sequential repeats the name of the Sequential: layer1/layer1.0.
        inner = part.removeprefix(f"{before}.") if before else part
        paths.append(f"{paths[-1]}.{inner}" if paths else inner)
        before = part
    return tuple(paths)


def _is_noted(node: ir.Node) -> bool:
    return SCOPES in node.metadata_props or str(node.name).startswith("/")


def _operation(node: ir.Node) -> str:
    """What torch's graph calls the operation that the node stands for."""
    return str(ast.literal_eval(node.metadata_props[SCOPES])[-1])


def _border_doubts(reader: ir.Node, name: str, path: str) -> Iterator[str]:
    """What speaks against `name` as the output of module `path`, in a node outside that reads it.

    A node that no optimiser rewrote reads what it read in torch, or the same numbers under another
    name; but that name may be the module's own, and hold the numbers in another layout.
    """
    rules = {rule.strip() for rule in reader.metadata_props.get(RULES, "").split(",")} - {""}
    if FOLDED in rules:
        if _reads_weights(reader, path):
            yield "it ends in a Conv that became part of the BatchNorm after it"
        return
    read = _REFERENCE.findall(reader.metadata_props.get(OPERATION, ""))[1:]
    passed_on = rules <= _HARMLESS and any(map(_PASSES_ON.fullmatch, read))
    if read and name not in read and not passed_on:
        yield f"its output may be gone: {reader.name!r} reads {name!r}, in torch {read[0]!r}"


def _reads_weights(node: ir.Node, path: str) -> bool:
    return any(
        value is not None and value.producer() is None and str(value.name).startswith(f"{path}.")
        for value in node.inputs
    )


def _has_anonymous_weights(node: ir.Node) -> bool:
    """Whether TorchScript's exporter made new weights for a convolution: it folded a BatchNorm."""
    return node.op_type in ("Conv", "ConvTranspose") and any(
        value is not None and str(value.name).startswith("onnx::") for value in node.inputs[1:]
    )

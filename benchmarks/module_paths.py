"""Torch module paths -> ONNX values: right, refused or wrong, with forward hooks as the oracle.

    python benchmarks/module_paths.py [NETWORK ...]

Every module of small transformers classifiers with random weights, and of the tests' small nets,
is looked up in the files that torch's exporters write, by what is noted in the file alone
(`exporters.module_path`), and its value compared with what the module gives in torch.

right     the value is what the module gives, within 1e-5 of its largest element, or within three
          times the distance between what the module gives in float32 and in float64
refused   no value is named; of these,
  saved     the doubtful value is right, and `exporters.torch_model.layer`, which has the module at
            hand, takes it
  none      nothing is left of the module in the graph
  not once  the module is called never or several times
WRONG     another value is named
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from classifiers import architecture_module
from numpy.typing import NDArray

from exporters import canonical, module_path, ort, torch_model
from exporters.torch_export import TorchExport
from exporters.torch_model.attempts import ATTEMPTS, Attempt
from exporters.torch_model.values import distance, tensors
from xai_onnx.cli.output import table
from xai_onnx.errors import TorchExportError

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import small_nets

TOLERANCE = 1e-5  # of the module's largest output
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
LAYERS = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}
WINDOWS = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2]}
WINDOWS |= {"num_heads": [2, 4], "window_size": 4}

# family: settings of its config, image size
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "ResNet": ({**STAGES, "embedding_size": 16}, 64),
    "RegNet": ({**STAGES, "embedding_size": 16, "groups_width": 8}, 64),
    "MobileNetV1": ({"image_size": 96, "depth_multiplier": 0.25}, 96),
    "MobileNetV2": ({"image_size": 96, "depth_multiplier": 0.35}, 96),
    "ConvNext": ({**STAGES, "image_size": 64}, 64),
    "ConvNextV2": ({**STAGES, "image_size": 64}, 64),
    "PoolFormer": (STAGES, 64),
    "Segformer": ({}, 96),
    "Pvt": ({"image_size": 96}, 96),
    "PvtV2": ({"image_size": 64}, 64),
    "ViT": (LAYERS, 64),
    "Beit": (LAYERS, 64),
    "ViTMSN": (LAYERS, 64),
    "Dinov2": (LAYERS, 64),
    "Swin": (WINDOWS, 64),
    "Swinv2": (WINDOWS, 64),
    "MobileViT": ({"image_size": 64}, 64),
    "MobileViTV2": ({"image_size": 64}, 64),
    "Levit": ({"image_size": 64}, 64),
    "Bit": ({**STAGES, "embedding_size": 16, "num_groups": 8}, 64),
    "FocalNet": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]}, 64),
    "SwiftFormer": ({"image_size": 64, "depths": [1, 1, 1, 1]}, 64),
    "Hiera": ({"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 1, 1]}, 64),
}
HEAD = ["network", "modules", "right", "refused", "saved", "none", "not once", "WRONG"]


def folded(net: Any, inputs: Any, names: list[str], output: str, path: Path) -> None:
    """The TorchScript exporter as it is by default: BatchNorm folded into convolutions."""
    ports = {"input_names": names, "output_names": [output]}
    axes = {"dynamic_axes": {name: {0: "batch"} for group in ports.values() for name in group}}
    torch.onnx.export(net, inputs, str(path), dynamo=False, opset_version=17, **ports, **axes)


*DYNAMO, SCRIPT = ATTEMPTS
EXPORTERS: dict[str, dict[str, Attempt]] = {
    "dynamo": {name: ATTEMPTS[name] for name in DYNAMO},
    "TorchScript": {SCRIPT: ATTEMPTS[SCRIPT]},
    "TorchScript, BatchNorm folded": {"folded": folded},
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=[*FAMILIES, *small_nets.SMALL_NETS])
    arguments = parser.parse_args(argv)
    rows: dict[str, list[list[str]]] = {exporter: [] for exporter in EXPORTERS}
    totals = {exporter: Counter[str]() for exporter in EXPORTERS}
    failed = []
    for name in arguments.networks:
        print(name, file=sys.stderr)
        module, image = network(name)
        for exporter, attempts in EXPORTERS.items():
            try:
                exported = torch_model.export(module, image, attempts=attempts)
            except TorchExportError as error:
                failed.append(f"{exporter}: {error}")
                continue
            counts = count(exported)
            totals[exporter] += counts
            rows[exporter].append([name, *(str(counts[key]) for key in HEAD[1:])])
    for exporter, lines in rows.items():
        total = ["all", *(str(totals[exporter][key]) for key in HEAD[1:])]
        print("\n".join([exporter, *table([HEAD, *lines, total]), ""]))
    print("\n".join(failed))
    return 1 if any(total["WRONG"] for total in totals.values()) else 0


def network(name: str) -> tuple[Any, torch.Tensor]:
    """A module in evaluation mode, and two images."""
    if name in small_nets.SMALL_NETS:
        return small_nets.build(name), small_nets.images(2)
    settings, size = FAMILIES[name]
    module = architecture_module(name, {"num_labels": 10, **settings})
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # which does next to nothing as it is made
            torch.nn.init.uniform_(part.weight, 0.6, 1.4)
            torch.nn.init.normal_(part.bias, std=0.3)
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    return module, torch.randn(2, 3, size, size)


def count(exported: TorchExport) -> Counter[str]:
    """How many of the modules are found, refused and wrong in the file."""
    proto = ir.serde.serialize_model(exported.model)
    model = canonical.canonicalise(ir.serde.deserialize_model(proto), exported.name)
    modules = module_path.Modules(model.graph)
    found = {}
    for path, _ in exported.module.named_modules():
        full = modules.full(path)
        found[path] = module_path.Found(None) if full is None else modules.output(full)
    del found[""]
    values = contents(model, [item.value for item in found.values() if item.value], exported)
    given = hooked(exported.module, exported.inputs)
    exact: dict[str, list[list[NDArray[Any]]]] = {}
    counts = Counter(modules=len(found))
    for path, item in found.items():
        calls = given.get(path, [])
        right = False
        if len(calls) == 1 and item.value in values:
            right = is_right(values[item.value], calls[0])
            if not right and not item.doubt:  # a matter of rounding, perhaps
                exact = exact or hooked(*in_float64(exported))
                right = is_right(values[item.value], calls[0], exact[path][0])
        if item.value is not None and not item.doubt:
            counts["right" if right else "WRONG"] += 1
            continue
        counts["refused"] += 1
        counts["saved"] += right
        counts["none"] += item.value is None
        counts["not once"] += len(calls) != 1
    return counts


def in_float64(exported: TorchExport) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A copy of the module, and its inputs, in float64."""
    inputs = tuple(tensor.double() for tensor in exported.inputs)
    return copy.deepcopy(exported.module).double(), inputs


def hooked(module: Any, inputs: Sequence[torch.Tensor]) -> dict[str, list[list[NDArray[Any]]]]:
    """The tensors that every part of the module gives, call by call."""
    given: dict[str, list[list[NDArray[Any]]]] = {}
    hooks = []
    for path, part in module.named_modules():

        def keep(_module: Any, _inputs: Any, output: Any, path: str = path) -> None:
            found = [tensor.numpy().copy() for tensor in tensors(output)]
            given.setdefault(path, []).append(found)

        hooks.append(part.register_forward_hook(keep))
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return given


def contents(
    model: ir.Model, values: Sequence[ir.Value], exported: TorchExport
) -> dict[ir.Value, NDArray[Any]]:
    """What the values hold on the example."""
    wanted = list(dict.fromkeys(values))
    model.graph.outputs.extend(value for value in wanted if value not in model.graph.outputs)
    session = ort.open_model(model, exported.name)
    inputs = zip(model.graph.inputs, exported.inputs, strict=True)
    feed = {str(value.name): tensor.numpy() for value, tensor in inputs}
    arrays = ort.run(session, [str(value.name) for value in wanted], feed, exported.name)
    return dict(zip(wanted, arrays, strict=True))


def is_right(
    value: NDArray[Any], given: list[NDArray[Any]], exact: list[NDArray[Any]] | None = None
) -> bool:
    """Whether the value is one of the tensors that the module gives."""
    return any(
        value.shape == tensor.shape
        and distance(value, tensor) <= max(TOLERANCE, 3 * distance(tensor, precise))
        for tensor, precise in zip(given, exact or given, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())

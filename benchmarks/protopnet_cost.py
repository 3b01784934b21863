"""What prototypes cost: a ProtoPNet against its backbone, and its head against the naive one.

    python benchmarks/protopnet_cost.py [--prototypes 2000] [--rounds 40] [--seconds 0.15]
                                        [--threads 1] [--batch 1]

ResNet-34 and MobileNetV2 of random weights (needs torch and transformers) with the original's
`regular` add-on, 128 channels, 7 x 7 cells; one thread, batch 1. Six sides take turns: the
backbone up to the latent grid, a twin of it (the noise floor of a ratio), the exported file, the
same file with half-precision search, and two naive files: the original's forward, operator by
operator, which gives the logits and smallest distances only; and the same with what a report needs
besides, locations and the maps of the top prototypes. Then the heads alone, on the grid.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from classifiers import architecture_module, exported
from onnx_ir.passes import common

import exporters
from exporters import canonical, source
from exporters.builder import Ops
from exporters.graph import names
from exporters.protopnet.arrays import ProtoPNetArrays
from exporters.protopnet.head import head
from xai_onnx.cli.output import progress, table
from xai_onnx.measure import Latency, environment, rotate
from xai_onnx.session import Session, runtime

CHANNELS, CLASSES, CELLS, SIDE, TOP = 128, 200, 7, 224, 10
SIDES = ("backbone", "twin", "protopnet", "float16 search", "naive", "naive, same outputs")
HEADS = ("head", "naive", "naive, same outputs")
LIMITS = {"ResNet-34": 1.05, "MobileNetV2": 1.20}
NETS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "ResNet-34": (
        "ResNet",
        {
            "layer_type": "basic",
            "depths": [3, 4, 6, 3],
            "hidden_sizes": [64, 128, 256, 512],
            "num_labels": 2,
        },
        "resnet",
        512,
    ),
    "MobileNetV2": ("MobileNetV2", {"num_labels": 2}, "mobilenet_v2", 1280),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prototypes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.15, help="of a block, about")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args(argv)
    print(", ".join(f"{key} {value}" for key, value in environment().items()), flush=True)
    arrays = prototypes(arguments.prototypes)
    verdicts: list[str] = []
    total = arguments.rounds * (len(NETS) * len(SIDES) + len(HEADS))
    with tempfile.TemporaryDirectory() as folder, progress(total, "block") as bar:
        for name in NETS:
            files = written(backbone(name, Path(folder)), arrays, Path(folder) / name)
            timed = measure(files, arguments, bar.update, (3, SIDE, SIDE))
            print("\n".join(["", *rows(f"{name}, batch {arguments.batch}", timed, "backbone")]))
            verdicts += against(name, timed)
        files = heads(arrays, Path(folder))
        timed = measure(files, arguments, bar.update, (CHANNELS, CELLS, CELLS))
        print("\n".join(["", *rows("on the latent grid alone", timed, "naive")]))
        for naive in HEADS[1:]:
            ratio = timed["head"].ratio(timed[naive])[0]
            verdicts.append(f"{_within(ratio <= 1)} 1: the head alone / {naive}: {ratio:.3f}")
    print("\n".join(["", *verdicts]))


def prototypes(count: int) -> ProtoPNetArrays:
    """`count` random prototypes, the classes in turn."""
    rng = np.random.default_rng(0)
    classes = min(CLASSES, count)
    owner = np.arange(count) * classes // count
    weights = np.where(owner == np.arange(classes)[:, None], 1.0, -0.5)
    return ProtoPNetArrays(
        prototypes=rng.random((count, CHANNELS, 1, 1)).astype(np.float32),
        prototype_class=owner.astype(np.int64),
        weights=weights.astype(np.float32),
    )


def backbone(name: str, folder: Path) -> Path:
    """The network `name` and a regular add-on, up to the latent grid, as an .onnx file."""
    import torch
    from torch import nn

    family, settings, inner, width = NETS[name]

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = getattr(architecture_module(family, settings), inner)
            self.add_on = nn.Sequential(
                *(nn.Conv2d(width, CHANNELS, 1), nn.ReLU()),
                *(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sigmoid()),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.add_on(self.features(x).last_hidden_state)

    return exported(Backbone().eval(), SIDE, folder / f"{name}.onnx")


def written(plain: Path, arrays: ProtoPNetArrays, stem: Path) -> dict[str, Path]:
    """A file for each side."""
    files = {"backbone": plain, "twin": plain}
    for side, precision in (("protopnet", "float32"), ("float16 search", "float16")):
        files[side] = stem.with_name(f"{stem.name}-{precision}.onnx")
        options = {"backbone": plain, "precision": precision, "targets": "predicted"}
        exporters.export_protopnet(arrays, files[side], **options)
    model = canonical.canonicalise(source.read(plain).model, str(plain))
    return files | naive_files(lambda: model.clone(), arrays, stem)


def heads(arrays: ProtoPNetArrays, folder: Path) -> dict[str, Path]:
    """Both heads on an input that is the latent grid."""
    model = _grid_only()
    op = Ops(names(model.graph))
    made = head(op, model.graph.inputs[0], (CELLS, CELLS), arrays, asked=None, top_count=TOP)
    ours = _saved(model, op, made, folder / "head.onnx")
    return {"head": ours} | naive_files(_grid_only, arrays, folder / "head")


def naive_files(
    model: Callable[[], ir.Model], arrays: ProtoPNetArrays, stem: Path
) -> dict[str, Path]:
    """Both naive files behind what `model` makes."""
    return {
        name: with_naive_head(model(), arrays, stem.with_name(f"{stem.name}-naive{k}.onnx"), k > 0)
        for k, name in enumerate(HEADS[1:])
    }


def with_naive_head(model: ir.Model, arrays: ProtoPNetArrays, path: Path, full: bool) -> Path:
    """The original's forward pass behind `model`: d = relu(conv(z^2, 1) - 2 conv(z, p) + |p|^2).

    If `full`, with all outputs of the exported file.
    """
    common.RemoveUnusedNodesPass()(model)
    graph = model.graph
    z = graph.outputs[0] if len(graph) else graph.inputs[0]
    op = Ops(names(graph))
    single = ir.DataType.FLOAT
    vectors = op.constant(arrays.prototypes, single)
    ones = op.constant(np.ones_like(arrays.prototypes), single)
    lengths = (arrays.prototypes.astype(np.float64) ** 2).sum((1, 2, 3))[:, None, None]
    crossed = op.Mul(op.constant(-2.0, single), op.Conv(z, vectors))
    squares = op.Conv(op.Mul(z, z), ones)
    distances = op.Relu(op.Add(squares, op.Add(crossed, op.constant(lengths, single))))
    window = {"kernel_shape": [CELLS, CELLS]}
    smallest = op.Neg(op.MaxPool(op.Neg(distances), **window))
    smallest = op.Reshape(smallest, op.constant([0, len(arrays.prototypes)]))
    above = op.Add(smallest, op.constant(1.0, single))
    below = op.Add(smallest, op.constant(arrays.epsilon, single))
    similarities = op.Log(op.Div(above, below))
    weights = op.constant(arrays.weights, single)
    logits = op.Gemm(similarities, weights, transB=1)
    outputs = {"logits": logits, "min_distances": smallest}
    if full:
        count = len(arrays.prototypes)
        flat = op.Reshape(distances, op.constant([0, count, CELLS * CELLS]))
        target = op.ArgMax(logits, axis=1, keepdims=0)
        evidence = op.Mul(similarities, op.Gather(weights, target, axis=0))
        _, top = op.TopK(evidence, op.constant([TOP]), axis=1, _outputs=2)
        maps = op.GatherND(distances, op.Unsqueeze(top, op.constant([2])), batch_dims=1)
        epsilon = op.constant(arrays.epsilon, single)
        similar = op.Div(op.Add(maps, op.constant(1.0, single)), op.Add(maps, epsilon))
        outputs |= {
            "similarities": similarities,
            "locations": op.ArgMin(flat, axis=2, keepdims=0),
            "top_indices": top,
            "top_maps": op.Log(similar),
        }
    return _saved(model, op, outputs, path)


def _grid_only() -> ir.Model:
    z = ir.Value(
        name="image",
        shape=ir.Shape(["batch", CHANNELS, CELLS, CELLS]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph = ir.Graph([z], [], nodes=[], opset_imports={"": 18}, name="head")
    return ir.Model(graph, ir_version=8)


def _saved(model: ir.Model, op: Ops, outputs: dict[str, ir.Value], path: Path) -> Path:
    nodes, initializers = op.needed_for(outputs.values())
    for initializer in initializers:
        model.graph.register_initializer(initializer)
    model.graph.extend(nodes)
    model.graph.outputs.clear()
    for name, value in outputs.items():
        value.name = op.unique(name)
        integer = name in ("locations", "top_indices")
        value.dtype = ir.DataType.INT64 if integer else ir.DataType.FLOAT
        model.graph.outputs.append(value)
    ir.save(model, path)
    return path


def measure(
    files: dict[str, Path], arguments: argparse.Namespace, update: Any, shape: tuple[int, ...]
) -> dict[str, Latency]:
    """Latency of each side, all outputs fetched, in blocks that take turns."""
    options = runtime().SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.log_severity_level = 4
    picture = np.random.default_rng(0).random((arguments.batch, *shape), np.float32)
    sides = {}
    for side, path in files.items():
        session = Session(path, None, options)
        (taken,) = session.inputs
        wanted = list(session.outputs)
        sides[side] = lambda s=session, w=wanted, t=taken: s.run(w, {t: picture})
    once = rotate(sides, rounds=1, calls=3)
    slowest = max(latency.median for latency in once.values())
    calls = max(1, round(arguments.seconds * 1000 / slowest))
    return rotate(sides, rounds=arguments.rounds, calls=calls, progress=update)


def rows(title: str, timed: dict[str, Latency], base: str) -> list[str]:
    """A table: medians, and ratios to `base`."""
    lines = [[title, "median ms", f"/ {base}", "quartiles", "samples"]]
    for side, latency in timed.items():
        middle, low, high = latency.ratio(timed[base])
        lines.append(
            [
                f"  {side}",
                f"{latency.median:.3f}",
                f"{middle:.3f}",
                f"{low:.3f}-{high:.3f}",
                str(len(latency.samples)),
            ]
        )
    return table(lines)


def against(name: str, timed: dict[str, Latency]) -> Iterator[str]:
    """Whether the file is within its limit, the noise floor allowed for, and beats the naive."""
    noise = abs(timed["twin"].ratio(timed["backbone"])[0] - 1)
    ratio, limit = timed["protopnet"].ratio(timed["backbone"])[0], LIMITS[name]
    yield (
        f"{_within(ratio <= limit + noise)} {limit} + noise {noise:.3f}: {name}, protopnet / "
        f"backbone {ratio:.3f}"
    )
    for naive in HEADS[1:]:
        ratio = timed["protopnet"].ratio(timed[naive])[0]
        yield f"{_within(ratio <= 1 + noise)} 1 + noise {noise:.3f}: {name}, / {naive} {ratio:.3f}"


def _within(holds: bool) -> str:
    return "within" if holds else "BEYOND"


if __name__ == "__main__":
    main()

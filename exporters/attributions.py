"""Attributions to the pixels: from the gradient G of the score at the image x to a number a pixel.

G has shape [K, *x]. A method that averages says which pictures the gradient is taken at: as many as
its inputs ask for when the file runs. To add one: write it here and decorate it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import onnx_ir as ir

from exporters.builder import Ops
from exporters.image_input import ImageInput

Inputs = Mapping[str, ir.Value]


class Attribution(ABC):
    """A method of attribution; as it stands, one whose gradient is taken at the image itself."""

    averages = False

    def inputs(self, op: Ops, image: ImageInput) -> dict[str, ir.Value]:
        """What the file takes for the method, by role."""
        return {}

    @abstractmethod
    def attribution(self, op: Ops, x: ir.Value, g: ir.Value, inputs: Inputs) -> ir.Value:
        """The attribution, [K, *x], from the mean gradient [K, *x]."""


class AveragedAttribution(Attribution):
    """A method whose gradient is the mean over several pictures."""

    averages = True

    @abstractmethod
    def count(self, op: Ops, inputs: Inputs) -> ir.Value:
        """How many pictures, int64 [1]."""

    def ready(self, op: Ops, inputs: Inputs) -> Inputs:
        """The inputs as `picture` wants them."""
        return inputs

    @abstractmethod
    def picture(
        self, op: Ops, x: ir.Value, number: ir.Value, count: ir.Value, inputs: Inputs
    ) -> ir.Value:
        """Picture `number`, int64 [], from 1 to `count`; 0 is asked for, too, and not used."""


ATTRIBUTION_METHODS: dict[str, Attribution] = {}


def attribution_method(name: str) -> Callable[[type[Attribution]], type[Attribution]]:
    """Enter a method into `ATTRIBUTION_METHODS`; a second one of that name is an error."""

    def enter(method: type[Attribution]) -> type[Attribution]:
        if name in ATTRIBUTION_METHODS:
            raise ValueError(f"two attribution methods called {name!r}")
        ATTRIBUTION_METHODS[name] = method()
        return method

    return enter


@attribution_method("saliency")
class Saliency(Attribution):
    """G itself; Simonyan, Vedaldi and Zisserman 2013, section 3."""

    def attribution(self, op: Ops, x: ir.Value, g: ir.Value, inputs: Inputs) -> ir.Value:
        """G."""
        return g


@attribution_method("input-x-gradient")
class InputXGradient(Attribution):
    """x G; Shrikumar et al. 2016."""

    def attribution(self, op: Ops, x: ir.Value, g: ir.Value, inputs: Inputs) -> ir.Value:
        """x G."""
        return op.Mul(x, g)  # type: ignore[no-any-return]


@attribution_method("smoothgrad")
class SmoothGrad(AveragedAttribution):
    """The mean of G over noisy pictures; Smilkov et al. 2017, section 3.

    Picture i is x + noise_i (max(x) - min(x)): the input `noise` [n, *x] holds the draws, of the
    standard deviation that is wanted, as a share of the picture's range.
    """

    def inputs(self, op: Ops, image: ImageInput) -> dict[str, ir.Value]:
        """`noise`, [n, *x]."""
        return {"noise": _like(op, "noise", "n", image)}

    def count(self, op: Ops, inputs: Inputs) -> ir.Value:
        """n."""
        return op.Shape(inputs["noise"], start=0, end=1)  # type: ignore[no-any-return]

    def ready(self, op: Ops, inputs: Inputs) -> Inputs:
        """`noise` with zeros in front, as number 0."""
        return {"noise": op.Pad(inputs["noise"], op.constant([1, *[0] * 7]))}

    def picture(
        self, op: Ops, x: ir.Value, number: ir.Value, count: ir.Value, inputs: Inputs
    ) -> ir.Value:
        """x + noise_i (max(x) - min(x))."""
        axes = op.constant([1, 2, 3])
        span = op.Sub(op.ReduceMax(x, axes, keepdims=1), op.ReduceMin(x, axes, keepdims=1))
        return op.Add(x, op.Mul(span, op.Gather(inputs["noise"], number, axis=0)))  # type: ignore[no-any-return]

    def attribution(self, op: Ops, x: ir.Value, g: ir.Value, inputs: Inputs) -> ir.Value:
        """The mean of G."""
        return g


@attribution_method("integrated-gradients")
class IntegratedGradients(AveragedAttribution):
    """(x - b) times the mean of G on the way from a baseline b to x; Sundararajan et al. 2017.

    Equation 1, its integral by the midpoint rule with `steps` pictures, b + (i - 1/2) / steps
    (x - b): the attributions add up to the score's difference between x and b.
    """

    def inputs(self, op: Ops, image: ImageInput) -> dict[str, ir.Value]:
        """`steps`, int64 [1], and `baseline`, [1, *x]."""
        steps = ir.Value(
            name=op.unique("steps"), shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
        )
        return {"steps": steps, "baseline": _like(op, "baseline", 1, image)}

    def count(self, op: Ops, inputs: Inputs) -> ir.Value:
        """The steps."""
        return inputs["steps"]

    def picture(
        self, op: Ops, x: ir.Value, number: ir.Value, count: ir.Value, inputs: Inputs
    ) -> ir.Value:
        """b + (i - 1/2) / steps (x - b)."""
        assert x.dtype is not None
        place, total = (op.Cast(v, to=int(x.dtype)) for v in (number, count))
        share = op.Div(op.Sub(place, op.constant(0.5, x.dtype)), total)
        baseline = inputs["baseline"]
        return op.Add(baseline, op.Mul(share, op.Sub(x, baseline)))  # type: ignore[no-any-return]

    def attribution(self, op: Ops, x: ir.Value, g: ir.Value, inputs: Inputs) -> ir.Value:
        """(x - b) times the mean of G."""
        return op.Mul(op.Sub(x, inputs["baseline"]), g)  # type: ignore[no-any-return]


def _like(op: Ops, name: str, first: int | str, image: ImageInput) -> ir.Value:
    """An input of the image's shape behind its first axis."""
    assert image.value.shape is not None
    assert image.value.dtype is not None
    sizes = [d if isinstance(d, int) else d.value for d in image.value.shape.dims[1:]]
    return ir.Value(
        name=op.unique(name),
        shape=ir.Shape([first, *sizes]),
        type=ir.TensorType(image.value.dtype),
    )

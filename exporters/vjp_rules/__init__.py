"""The gradient rules: one function per operator, found by its name in `VJP_RULES`.

A rule takes the site (the node, its shapes, the builder) and the cotangent of the node's first
output, and returns a cotangent for each input that lies on the path, in the order of the inputs;
``None`` for the others, trailing ones left out; `ZERO` where an input has no influence. The
cotangent of a broadcast operand is returned in the shape of the output: the walk undoes
broadcasting, in one place. The rule of an operator with several outputs (`vjp_of_outputs`) takes a
list of cotangents, ``None`` for outputs nobody reads.

To add an operator: write its rule in the file of its family with the mathematics as docstring,
decorate it, and add a case to ``tests/vjp_cases.py`` (a test compares the two tables).
"""

from __future__ import annotations

import onnx_ir as ir

from exporters import quantized
from exporters.vjp_rules import (
    activations,
    arithmetic,
    attention,
    convolution,
    indexing,
    linear,
    normalization,
    patches,
    pooling,
    quantization,
    reduction,
    resizing,
    sampling,
    scattering,
    selection,
    shaping,
    spectral,
    steps,
    trigonometry,
)
from exporters.vjp_rules.registry import VJP_RULES, Rule, Site

__all__ = [
    "VJP_RULES",
    "Rule",
    "Site",
    "activations",
    "arithmetic",
    "attention",
    "convolution",
    "indexing",
    "linear",
    "normalization",
    "patches",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "rule_for",
    "sampling",
    "scattering",
    "selection",
    "shaping",
    "spectral",
    "steps",
    "trigonometry",
]


def rule_for(node: ir.Node) -> Rule | None:
    """The node's rule; that of an operator on integers is made from the one of its float form."""
    if quantized.works_on_integers(node):
        rule = VJP_RULES.get(quantized.operator(node))
        return rule and quantization.straight_through(rule)
    known = node.domain in ("", "ai.onnx") or quantized.is_boundary(node)
    return VJP_RULES.get(node.op_type) if known else None

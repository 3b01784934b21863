"""The gradient rules: one function per operator, found by its name in `VJP_RULES`.

A rule takes the site (the node, its shapes, the builder) and the cotangent of the node's first
output, and returns a cotangent for each input that lies on the path, in the order of the inputs;
``None`` for the others, trailing ones left out. The cotangent of a broadcast operand is returned in
the shape of the output: the walk undoes broadcasting, in one place. The rule of an operator with
several outputs (`vjp_of_outputs`) takes a list of cotangents, ``None`` for outputs nobody reads.

To add an operator: write its rule in the file of its family with the mathematics as docstring,
decorate it, and add a case to ``tests/vjp_cases.py`` (a test compares the two tables).
"""

from exporters.vjp_rules import (
    activations,
    arithmetic,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shaping,
)
from exporters.vjp_rules.registry import VJP_RULES, Rule, Site

__all__ = [
    "VJP_RULES",
    "Rule",
    "Site",
    "activations",
    "arithmetic",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "shaping",
]

"""Random classifiers: the gradient as users run it, against differences of the original in float64.

No random model may give a wrong gradient, or an exception that isn't a refusal. About 200 of them
are tried, always the same, a few for each operator; XAI_ONNX_FUZZ_EXAMPLES=5000 tries so many, each
time others, of the seed that it prints (XAI_ONNX_FUZZ_SEED).
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from emitted import append, session
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from numpy.typing import NDArray
from random_graphs import Drawn, classifiers
from random_uses import USES, WITHOUT

from exporters import graph, probe
from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.cotangent import Cotangent, OneHot, dense
from exporters.float64 import Tail
from exporters.gradient import vjp
from exporters.vjp_rules import VJP_RULES
from xai_onnx.errors import ModelFileError, UnsupportedOperatorError

MANY = os.environ.get("XAI_ONNX_FUZZ_EXAMPLES")
EXAMPLES = int(MANY or 200)
SEED = int(os.environ.get("XAI_ONNX_FUZZ_SEED", random.randrange(2**31) if MANY else 0))

# Long enough to cross what float32 may see on the other side of a kink. Without a kink the
# quotients of two steps agree to 1e-10 of the curvature; KINK is less than what a wrong side costs.
STEP, KINK = 1e-5, 2e-5
# Some dozens of operations in float32 err by 6e-8 each, times what cancellation makes of it.
TOLERANCE, FORWARD = 2e-4, 1e-3
REFUSED, DISCARDED = 0.1, 0.15  # the share that may be


@pytest.fixture(autouse=True)
def _small_pictures_where_the_size_is_free(monkeypatch):
    """A random model attends from each pixel to each: at 224 x 224 that takes 10 GB a matrix."""
    monkeypatch.setattr(probe, "_SIZES", ((28, 28), (36, 32)))


class Trial:
    """A random classifier whose gradient at one layer was appended to it."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.rng = np.random.default_rng(drawn.seed)
        self.original, self.plain = Classifier(drawn.model), Classifier(drawn.model)
        self.layer = self._layer(self.plain)
        self._emit()

    def _layer(self, plain: Classifier) -> ir.Value:
        """The value that is differentiated by: the image, or one of those behind it."""
        image, score = plain.image, plain.score.value
        on_path = graph.path(image.value, score)
        values = [image.value, *(v for node in plain.model.graph for v in node.outputs)]
        fit = [v for v in values if v in on_path and graph.is_float(v) and v is not score]
        fit = [v for v in fit if plain.shapes[v][:1] == (image.batch or probe.BATCH,)]
        return fit[self.drawn.layer % len(fit)]

    def _emit(self) -> None:
        plain, scored = self.plain, self.plain.score
        op = Ops({str(v.name) for node in plain.model.graph for v in node.outputs})
        chosen = ir.Value(
            name="class_index", shape=ir.Shape(["b", "K"]), type=ir.TensorType(ir.DataType.INT64)
        )
        shape = plain.shapes[scored.value]
        assert scored.value.dtype is not None
        one = op.constant(np.ones([1] * (len(shape) + 1)), scored.value.dtype)
        hot = OneHot(scored.axis, op.transpose(chosen, [1, 0]), chosen)
        start = Cotangent(one, shape, frozenset(), hot)
        (g,) = vjp(op, plain.model, [self.layer], scored.value, start, plain.shapes)
        gradient = dense(op, g, self.layer).value
        gradient.dtype = self.layer.dtype
        plain.model.graph.inputs.append(chosen)
        outputs = {"layer": self.layer, "scores": scored.value, "gradient": gradient}
        ranks = {
            name: len(plain.shapes[value]) for name, value in outputs.items() if name != "gradient"
        }
        append(op, plain.model, outputs, {**ranks, "gradient": len(plain.shapes[self.layer]) + 1})
        onnx.checker.check_model(ir.serde.serialize_model(plain.model), full_check=True)
        self.session = session(plain.model)

    def images(self, batch: int) -> NDArray[np.float32]:
        return self.plain.image.noise(batch, self.drawn.size, seed=int(self.rng.integers(2**31)))

    def run(
        self, image: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> list[NDArray[np.float32]]:
        """The layer, the scores [B, N], and the gradient at the layer, [K, ...]."""
        feed = {str(self.plain.image.value.name): image, "class_index": chosen}
        layer, scores, gradient = self.session.run(["layer", "scores", "gradient"], feed)
        return [layer, scores.reshape(len(image), -1), gradient]

    def plain_scores(self, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The scores [B, N] that ONNX Runtime gives for the original."""
        again = Classifier(self.drawn.model)
        op = Ops({str(v.name) for node in again.model.graph for v in node.outputs})
        append(op, again.model, {"scores": again.score.value})
        (scores,) = session(again.model).run(["scores"], feed)
        return np.asarray(scores).reshape(len(scores), -1)

    def error(self, batch: int, k: int) -> float | None:
        """How far the gradient is off along a direction; ``None`` where there is no derivative."""
        image = self.images(batch)
        classes = self.plain.score.num_classes
        chosen = self.rng.integers(0, classes, (batch, k))
        layer, scores, gradient = self.run(image, chosen)
        assert gradient.shape == (k, *layer.shape)
        assert gradient.dtype == layer.dtype
        if layer.dtype == np.float16 or scores.dtype == np.float16:
            return 0.0  # too coarse to compare: that it runs is all that is asked
        twin = self.original
        value = {str(v.name): v for n in twin.model.graph for v in n.outputs}
        value[str(twin.image.value.name)] = twin.image.value
        feed = {str(twin.image.value.name): image}
        tail = Tail(twin, value[str(self.layer.name)], twin.score.value, feed)
        base, v = layer.astype(np.float64), self.rng.standard_normal(layer.shape)
        exact = tail(base)
        if not np.all(np.isfinite(exact)):
            return None
        if not np.allclose(scores, exact, rtol=FORWARD, atol=FORWARD):
            # A variance of rounding alone, say: ONNX Runtime must say so of the original, too.
            np.testing.assert_allclose(scores, self.plain_scores(feed), rtol=1e-6, atol=1e-6)
            return None
        ahead, behind = ([tail(base + s * h * STEP * v) for h in (1, 0.5)] for s in (1, -1))
        slopes = [(a - b) / (2 * h * STEP) for a, b, h in zip(ahead, behind, (1, 0.5), strict=True)]
        bends = [
            (a - 2 * exact + b) / (h * STEP)
            for a, b, h in zip(ahead, behind, (1, 0.5), strict=True)
        ]
        expected, half, bend = (
            np.take_along_axis(array, chosen, 1).sum(0)
            for array in (slopes[0], slopes[1], 2 * bends[1] - bends[0])
        )
        along = gradient * v
        rest = tuple(range(1, along.ndim))
        scale = np.sqrt((np.nan_to_num(along) ** 2).sum(rest)) + 1e-2
        if np.any(np.maximum(np.abs(expected - half), np.abs(bend)) > KINK * scale):
            return None
        moved = base * (1 + 3e-7 * self.rng.standard_normal(base.shape))
        elsewhere = (tail(moved + STEP * v) - tail(moved - STEP * v)) / (2 * STEP)
        elsewhere = np.take_along_axis(elsewhere, chosen, 1).sum(0)
        if np.any(np.abs(elsewhere - expected) > TOLERANCE / 4 * scale):
            return None
        return float((np.abs(along.sum(rest) - expected) / scale).max(initial=0))


def refusal(error: UnsupportedOperatorError) -> str:
    """The form that isn't covered, out of a message that says all that it must."""
    found = re.fullmatch(
        r"the gradient rule for '(\w+)' \(node '.*'\) doesn't cover it (.*); "
        "choose a later target layer, or see exporters/vjp_rules",
        str(error),
    )
    assert found, f"an unclear refusal: {error}"
    return f"{found[1]} {found[2]}"


def trial(drawn: Drawn, tally: Counter[str]) -> None:
    """Try one classifier, and count what came of it."""
    tally["drawn"] += 1
    try:
        tried = Trial(drawn)
    except UnsupportedOperatorError as error:
        tally["refused"] += 1
        tally[f"refused, {refusal(error)}"] += 1
        return
    except ModelFileError as error:
        if "which its own input allows" not in str(error):
            raise
        tally["no model at other image sizes"] += 1
        reject()
    for batch, k in zip(drawn.batches[::-1], (3, 1, 0), strict=False):
        error = tried.error(batch, k)
        if error is None:
            tally["discarded"] += 1
            return
        assert error <= TOLERANCE, f"batch {batch}, K {k}: off by {error:.1e}"
    if len(drawn.batches) == 1:
        assert tried.error(drawn.batches[0], 0) is not None
    tally["compared"] += 1
    tally[f"compared, {tried.layer.dtype}"] += 1
    tally.update(f"operator {op_type}" for op_type in set(drawn.operators))


def test_every_operator_with_a_rule_is_drawn():
    missing = sorted(set(VJP_RULES) - set(USES) - set(WITHOUT))
    assert not missing, f"neither a use nor a reason in random_uses.py: {', '.join(missing)}"
    assert not set(USES) & set(WITHOUT)


def test_random_classifiers_give_the_gradient_or_a_refusal(capsys):
    tally: Counter[str] = Counter()
    uses = {op_type: USES[op_type] for op_type in sorted(VJP_RULES) if op_type in USES}
    each = settings(
        max_examples=-(-EXAMPLES // len(uses)),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    for index, op_type in enumerate(uses):  # hypothesis alone would repeat itself too much

        @seed(SEED + index)
        @each
        @given(classifiers(uses, op_type))
        def check(drawn: Drawn) -> None:
            trial(drawn, tally)

        check()
    counts = {what: n for what, n in tally.items() if not what.startswith("operator ")}
    compared = Counter({op_type: tally[f"operator {op_type}"] for op_type in VJP_RULES})
    least = ", ".join(f"{op_type} {n}" for op_type, n in compared.most_common()[:-6:-1])
    with capsys.disabled():
        print(f"\nrandom classifiers, seed {SEED}: {counts}; fewest: {least}")
    assert tally["refused"] <= REFUSED * tally["drawn"]
    assert tally["discarded"] <= DISCARDED * tally["drawn"]


@pytest.mark.parametrize("op_type", ["Neg", "Relu", "GlobalMaxPool"])
def test_a_wrong_rule_is_noticed(monkeypatch, op_type):
    wrong = {"GlobalMaxPool": "GlobalAveragePool"}.get(op_type, "Identity")
    monkeypatch.setitem(VJP_RULES, op_type, VJP_RULES[wrong])

    @seed(0)
    @settings(max_examples=5, database=None, deadline=None, phases=[Phase.generate])
    @given(classifiers({op_type: USES[op_type]}, op_type, steps=1))
    def check(drawn: Drawn) -> None:
        trial(drawn, Counter())

    with pytest.raises(AssertionError, match="off by"):
        check()

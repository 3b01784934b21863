"""The scores that a surrogate is fitted to.

``probability`` is the choice of Ribeiro et al. 2016. Where the model is sure it hardly changes from
one perturbed picture to the next; the logit before it (``logits``) does.
"""

from __future__ import annotations

import onnx_ir as ir

from exporters.builder import Ops
from exporters.classifier import Classifier
from exporters.quantized import as_float
from exporters.source import ModelLike
from xai_onnx.errors import InputShapeError, ScoreError

PROBABILITY = "probability"


class FittedScores:
    """A classifier, and its scores as a surrogate is fitted to them."""

    def __init__(self, model: ModelLike, at: str, input_name: str | None) -> None:
        """Read `model`; `at` is a kind of score (`exporters.score`) or ``probability[:NAME]``.

        Raises:
            InputShapeError: the model takes more than a picture.
            ScoreError: there are no such scores, or they have no probabilities.
        """
        kind, colon, name = at.partition(":")
        self.at, self._probability = at, kind == PROBABILITY
        score_at = f"output{colon}{name}" if self._probability else at
        self.classifier = Classifier(model, score_at=score_at, input_name=input_name)
        beside = self.classifier.image.beside
        if beside:
            raise InputShapeError(
                f"{self.classifier.name}: takes {', '.join(repr(str(v.name)) for v in beside)} "
                "besides the picture; LIME in the file is for models that take pictures only"
            )
        score = self.classifier.score
        one_logit = score.num_classes == 1 and score.activation is None
        if self._probability and (one_logit or score.activation == "none"):
            raise ScoreError(
                f"{self.classifier.name}: its scores have no probabilities; fit the scores "
                "themselves: score logits"
            )

    @property
    def scale(self) -> str:
        """What the coefficients measure, as `LimeFile.scale` has it."""
        score = self.classifier.score
        if self._probability:
            return "probability"
        if score.value is not score.output or score.activation is None:
            return "logit"
        return "probability" if score.activation in ("softmax", "sigmoid") else "score"

    @property
    def activation(self) -> str | None:
        """The function that ends in what is fitted, as `Manifest.output_activation` has it."""
        score = self.classifier.score
        if self._probability:
            return "sigmoid" if score.activation == "sigmoid" else "softmax"
        return score.activation if score.value is score.output else None

    def emit(self, op: Ops) -> tuple[ir.Value, ir.Value]:
        """What is fitted, float32, and what ranks the classes: both [batch, N], perhaps the same.

        `op` records nodes behind the model's own.
        """
        score = self.classifier.score
        value = score.output
        fitted = output = self._matrix(op, value, value)
        if score.value is not score.output:
            value = as_float(op, score.value)
            fitted = self._matrix(op, value, score.value)
        if value.dtype != ir.DataType.FLOAT:
            fitted = op.Cast(fitted, to=int(ir.DataType.FLOAT))
        if self._probability and score.activation is None:
            fitted = op.Softmax(fitted, axis=-1)
        elif self._probability and score.activation == "log_softmax":
            fitted = op.Exp(fitted)
        fitted.dtype = ir.DataType.FLOAT
        dtype = score.output.dtype
        assert dtype is not None
        output.dtype = dtype
        for matrix in (fitted, output):
            matrix.shape = ir.Shape([None, score.num_classes])
        return fitted, output

    def _matrix(self, op: Ops, value: ir.Value, measured: ir.Value) -> ir.Value:
        """[batch, N] of scores that may have further axes of size 1, as `measured` has."""
        if len(self.classifier.shapes[measured]) == 2:
            return value
        return op.Reshape(value, op.constant([-1, self.classifier.score.num_classes]))  # type: ignore[no-any-return]

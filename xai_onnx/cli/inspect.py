"""``xai-onnx inspect``: what a model takes and gives, and what explaining it would do."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from xai_onnx.cli.output import add_json, say, table
from xai_onnx.errors import XaiOnnxError

if TYPE_CHECKING:
    from exporters.classifier import Classifier
    from xai_onnx.manifest import Manifest
    from xai_onnx.session import Session


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("inspect", help="inputs, outputs, possible target layers")
    parser.add_argument("model", metavar="MODEL", help="a plain or an explained .onnx")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe a plain classifier, or print the manifest of an explained one."""
    from xai_onnx.session import Session

    session = Session(arguments.model)
    if session.manifest is not None:
        say(arguments, dataclasses.asdict(session.manifest), _manifest_lines(session.manifest))
        return 0
    from exporters.classifier import Classifier

    classifier = Classifier(arguments.model)
    data = _describe(classifier, session)
    say(arguments, data, _lines(data))
    return 0


def _describe(classifier: Classifier, session: Session) -> dict[str, Any]:
    from xai_onnx.batch import ImageInput
    from xai_onnx.cli.suspect import suspicions

    score = classifier.score
    chosen, why = None, ""
    try:
        chosen = classifier.target_layers()[0].value.name
        why = "the last feature map that every path to the score crosses, before class-score maps"
    except XaiOnnxError as error:
        why = str(error)
    image = ImageInput.of(session.inputs[str(classifier.image.value.name)], classifier.name)
    return {
        "model": classifier.name,
        "opset": classifier.opset,
        "inputs": _ports(session.inputs),
        "outputs": _ports(session.outputs),
        "score": {
            "value": score.value.name,
            "classes": score.num_classes,
            "output": score.output.name,
            "output_activation": score.activation,
        },
        "target_layer": chosen,
        "target_layer_why": why,
        "candidates": [
            {
                "value": candidate.value.name,
                "shape": list(candidate.shape),
                "operator_without_rule": candidate.missing and candidate.missing.op_type,
            }
            for candidate in classifier.candidates()
        ],
        "operators_without_rule": classifier.operators_without_rule(),
        "suspected_preprocessing": [
            dataclasses.asdict(suspicion)
            for suspicion in suspicions(session, image, str(score.output.name))[:3]
        ],
    }


def _ports(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "type": value.type, "shape": value.shape} for name, value in values.items()
    ]


def _lines(data: dict[str, Any]) -> list[str]:
    score = data["score"]
    ending = score["output_activation"]
    lines = [f"{data['model']}  opset {data['opset']}", ""]
    rows = [
        [kind[:-1], port["name"], port["type"], _shape(port["shape"])]
        for kind in ("inputs", "outputs")
        for port in data[kind]
    ]
    lines += table(rows)
    lines += ["", f"score  {score['value']}, {score['classes']} classes"]
    if ending:
        lines[-1] += f", before the {ending} that ends in {score['output']}"
    lines += ["", "possible target layers, * is the one taken:"]
    rows = [
        [
            "*" if layer["value"] == data["target_layer"] else " ",
            layer["value"],
            _shape(layer["shape"]),
            f"no rule for {layer['operator_without_rule']} behind it"
            if layer["operator_without_rule"]
            else "",
        ]
        for layer in data["candidates"]
    ]
    lines += table(rows) if rows else ["  none"]
    lines += [("* " if data["target_layer"] else "none taken: ") + data["target_layer_why"]]
    missing = data["operators_without_rule"]
    lines += ["", f"operators without a gradient rule: {', '.join(missing) or 'none'}"]
    if data["suspected_preprocessing"]:
        lines += ["", "suspected preprocessing, by the model's own certainty on two photos:"]
        lines += table(
            [
                [f"  {guess['preset']}", guess["color"], f"entropy {guess['entropy']:.2f} bits"]
                for guess in data["suspected_preprocessing"]
            ]
        )
    return lines


def _shape(shape: list[Any]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _manifest_lines(manifest: Manifest) -> list[str]:
    data = dataclasses.asdict(manifest)
    labels, lime = data.pop("labels"), data.pop("lime")
    if manifest.preprocess is not None:
        data["preprocess"] = manifest.preprocess.summary
    rows = [[name, str(value)] for name, value in data.items()]
    rows += [[f"lime: {name}", str(value)] for name, value in (lime or {}).items()]
    return table([*rows, ["labels", f"{len(labels)} names" if labels else "none"]])

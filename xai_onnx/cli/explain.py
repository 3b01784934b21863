"""``xai-onnx explain``: pictures in, explained pictures out."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_onnx.cli import lime, prototype_checks
from xai_onnx.cli.output import add_export_options, add_json, add_provider, progress, say
from xai_onnx.errors import (
    InputShapeError,
    MethodError,
    OutputFileError,
    TargetError,
    reason,
)
from xai_onnx.methods import NAMES, PERTURBATIONS, PROTOTYPES

if TYPE_CHECKING:
    from xai_onnx.model import Model


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "explain", help="explain pictures with an explained or a plain classifier"
    )
    parser.add_argument(
        "model", metavar="MODEL", help="explained .onnx, or a plain one, explained in memory"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="for one IMAGE a picture (.png, .jpg, .webp; of a ProtoPNet or .html), else a folder",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--target",
        action="append",
        metavar="N|NAME",
        help="class to explain, by index or label; repeat for several (default: the predicted)",
    )
    which.add_argument("--top-k", type=int, metavar="K", help="explain the K highest scores")
    parser.add_argument(
        "--method",
        choices=list(NAMES),
        help="how a plain classifier is explained (default: gradcam); lime explains any, an "
        "explained file, too",
    )
    lime.add_options(parser)
    parser.add_argument(
        "--with",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="what the file takes besides the picture, e.g. mask=mask.npy; repeat for several",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="of a ProtoPNet: cover the matches up, disturb the picture, and say what changes",
    )
    add_export_options(parser)
    add_provider(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain every picture, write one figure for each."""
    model = _open(arguments)
    places, inputs = _places(arguments), dict(map(_array, arguments.inputs))
    results: list[dict[str, Any]] = []
    lines = []
    with progress(len(places), "picture") as bar:
        for image, place in places:
            explanations = _explain(model, image, arguments, inputs)
            if place != arguments.output:
                _make(place.parent)
            _save(explanations, place)
            found = [explanation.to_dict() for explanation in explanations]
            results.append({"image": image, "picture": str(place), "explanations": found})
            lines += [f"{place}  {_text(explanation)}" for explanation in explanations]
            if arguments.check:
                for explanation, data in zip(explanations, found, strict=True):
                    data["checks"], said = prototype_checks.checked(model, image, explanation)
                    lines += said
            bar.update()
    say(arguments, results, lines)
    return 0


def _open(arguments: argparse.Namespace) -> Model:
    """The model, explained in memory if it is a plain one."""
    from xai_onnx.model import Model
    from xai_onnx.session import Session

    session = Session(arguments.model, arguments.provider)
    by_prototypes = session.manifest is not None and session.manifest.prototypes is not None
    if arguments.check and not (by_prototypes and arguments.method in (None, *PROTOTYPES)):
        raise MethodError(
            f"{arguments.model}: --check is for a ProtoPNet that is explained by its prototypes"
        )
    if arguments.method is None and session.manifest is not None and session.manifest.lime:
        arguments.method = "lime"
    if arguments.method == "lime":
        return lime.open_model(session, arguments)
    lime.refuse_options(arguments)
    if session.manifest is None:
        import exporters

        explained = exporters.explained_bytes(
            arguments.model,
            method=arguments.method or "gradcam",
            target_layer=arguments.target_layer,
            score=arguments.score or "logits",
            input_name=arguments.input,
            preprocess=arguments.preprocess,
            labels=arguments.labels,
        )
        return Model(Session(explained, arguments.provider))
    if arguments.method not in (None, session.manifest.method):
        raise MethodError(
            f"{arguments.model}: was exported for {session.manifest.method}, not for "
            f"{arguments.method}; export it again with that method"
        )
    for option in ("target_layer", "labels", "score", "input"):
        if getattr(arguments, option) is not None:
            raise MethodError(
                f"{arguments.model}: is explained already, so --{option.replace('_', '-')} comes "
                "too late; export it again with that option"
            )
    return Model(session, arguments.preprocess)


def _save(explanations: list[Any], place: Path) -> None:
    """Write the figure of one picture: maps, LIME's evidence, or a ProtoPNet's report."""
    if explanations[0].method in PROTOTYPES:
        from xai_onnx.protopnet import saving

        saving.save(explanations, place)
        return
    from xai_onnx import render

    draw = render.evidence_picture if explanations[0].method in PERTURBATIONS else render.picture
    render.save(draw(explanations), place)


def _array(text: str) -> tuple[str, NDArray[Any]]:
    """``NAME=FILE.npy`` as name and content."""
    name, equals, path = text.partition("=")
    if not equals:
        raise InputShapeError(f"--with {text}: say NAME=FILE, FILE an .npy array")
    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputShapeError(f"{path}: can't be read as an .npy array: {reason(error)}") from error


def _explain(
    model: Model, image: str, arguments: argparse.Namespace, inputs: dict[str, NDArray[Any]]
) -> list[Any]:
    target: list[int | str] | None = arguments.target and [_class(t) for t in arguments.target]
    if arguments.top_k is not None:
        scores = model.predict(image, inputs=inputs).scores
        if not 1 <= arguments.top_k <= len(scores):
            raise TargetError(f"--top-k {arguments.top_k}: the model has {len(scores)} classes")
        target = [int(t) for t in np.argsort(-scores, kind="stable")[: arguments.top_k]]
    if arguments.method == "lime":
        return lime.explain(model, image, target, arguments, inputs)
    found = model.explain(image, target, inputs=inputs)
    return found if isinstance(found, list) else [found]


def _class(text: str) -> int | str:
    """A class as typed: an index, or a label."""
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text


def _places(arguments: argparse.Namespace) -> list[tuple[str, Path]]:
    """Each image and the file that its figure goes to."""
    from xai_onnx.protopnet.saving import PAGES
    from xai_onnx.render import FORMATS

    output: Path = arguments.output
    images: list[str] = arguments.images
    if output.suffix.lower() in (*FORMATS, *PAGES):
        if len(images) > 1:
            raise OutputFileError(f"{output}: is one file for {len(images)} images; give a folder")
        return [(images[0], output)]
    places = [(image, output / f"{Path(image).stem}.png") for image in images]
    names = [place for _, place in places]
    twice = next((place for place in names if names.count(place) > 1), None)
    if twice is not None:
        raise OutputFileError(
            f"{twice}: two of the images would be written there; explain them one by one"
        )
    return places


def _make(folder: Path) -> None:
    """Make the folder of the figures, once there is one to put into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{folder}: can't be made: {error.strerror}") from error


def _text(explanation: Any) -> str:
    if explanation.method in PROTOTYPES:
        return str(explanation.summary)
    if explanation.method in PERTURBATIONS:
        return lime.text(explanation)
    likely = "" if explanation.probability is None else f", {explanation.probability:.1%}"
    peak = explanation.peak
    where = "no positive evidence" if peak is None else f"peak at x {peak[0]:.0f}, y {peak[1]:.0f}"
    return f"{explanation.title}{likely}, score {explanation.score:.4g}, {where}"

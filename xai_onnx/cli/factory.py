"""MODEL as ``pkg.module:factory``: a torch module made by the user's own code."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_onnx.errors import FactoryError, InputShapeError, reason

if TYPE_CHECKING:
    from exporters.torch_export import TorchExport

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # C:\model.onnx is none


def is_factory(text: str) -> bool:
    """Whether MODEL has the form of a factory, and is no file."""
    return bool(_FORM.fullmatch(text)) and not text.endswith(".onnx") and not Path(text).exists()


def export(text: str, input_shape: str | None) -> TorchExport:
    """Import the factory, call it, export what it makes.

    What the user's code prints goes to standard error, since standard output is for results.

    Args:
        text: ``pkg.module:name``; the current folder is searched too. The name stands for a torch
            module, a pair (module, example input), or a function or class that gives either.
        input_shape: sizes of the example input, separated by commas.

    Raises:
        FactoryError: no such module or name, the user's code fails, or it gives something else.
    """
    from exporters import torch_model

    with contextlib.redirect_stdout(sys.stderr):
        made = _call(text, _import(text))
        module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not torch_model.is_module(module):
            raise FactoryError(
                f"{text}: what it gives is of type {type(made).__name__}; it must give a "
                "torch.nn.Module, or a pair of one and its example input"
            )
        if input_shape is not None:
            if example is not None:
                raise InputShapeError(f"--input-shape: {text} gives an example input already")
            example = torch_model.noise(module, _sizes(input_shape))
        return torch_model.export(module, example)


def _import(text: str) -> Any:
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise FactoryError(
            f"{text}: {module} can't be imported: {type(error).__name__}: {reason(error)}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n, made in vars(found).items() if callable(made) and n[:1] != "_"]
            raise FactoryError(
                f"{text}: there is no {part!r} in {module}; it has {', '.join(names) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


def _call(text: str, found: Any) -> Any:
    """What the name stands for, called where it is a function or a class."""
    from exporters import torch_model

    if torch_model.is_module(found) or not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # it is the user's code
        raise FactoryError(f"{text}: fails: {type(error).__name__}: {reason(error)}") from error


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputShapeError(f"--input-shape {text!r}: must be sizes as 1,3,224,224")
    return sizes

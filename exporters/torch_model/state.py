"""A module and torch itself in the state that the exporters need, and back again."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import IO

import torch
from torch import nn


@contextlib.contextmanager
def as_for_export(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, without inplace activations, gradients and fused attention."""
    training = [(part, part.training) for part in module.modules()]
    inplace = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        module.eval()
        for part in inplace:
            part.inplace = False  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part in inplace:
            part.inplace = True  # type: ignore[assignment]
        for part, flag in training:
            part.training = flag


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings and prints, which say nothing of the model.

    Some come from C++, so the streams of the process itself are closed for the time.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nothing:
            warnings.simplefilter("ignore")
            with (
                contextlib.redirect_stdout(nothing),
                contextlib.redirect_stderr(nothing),
                _descriptor_to(nothing, 1),
                _descriptor_to(nothing, 2),
            ):
                yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _descriptor_to(nothing: IO[str], descriptor: int) -> Iterator[None]:
    try:
        kept = os.dup(descriptor)
    except OSError:  # a process without that stream
        yield
        return
    os.dup2(nothing.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)

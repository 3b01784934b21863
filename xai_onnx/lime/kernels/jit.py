"""The one decorator of all kernels, and their compilation ahead of time.

A kernel is compiled on its first call for the types that it gets, and the machine code is kept on
disk for the next process. The signatures that a kernel is usually called with stand above it, so
that `warmup` can pay for the compilation when a program is installed, not at its first request.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
import warnings
from collections.abc import Callable
from typing import Any

from numba import njit

PACKAGE = "xai_onnx.lime.kernels"

KERNELS: dict[str, tuple[Any, tuple[str, ...]]] = {}  # name -> dispatcher, usual signatures


def kernel(*signatures: str, fused: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with Numba: without the GIL, kept on disk, IEEE arithmetic.

    Division by zero gives infinity or NaN as in NumPy. Nothing is reordered, for the results are
    compared bit for bit.

    Args:
        signatures: the types that it is usually called with, as ``"void(float32[:, ::1], int64)"``;
            none for a function that only other kernels call.
        fused: whether the machine may round ``a * b + c`` once, where it can; for kernels whose
            results are compared to a tolerance, not bit for bit with others'.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract"} if fused else False,
    }

    def compiled(function: Callable[..., Any]) -> Any:
        name = f"{function.__module__.removeprefix(PACKAGE + '.')}.{function.__name__}"
        if name in KERNELS:
            raise ValueError(f"there are two kernels {name}")
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError as error:  # no folder can be written, as in a locked-down container
            warnings.warn(
                f"the kernel {name} is compiled anew in every process, for Numba can't keep it on "
                f"disk: {error}; set NUMBA_CACHE_DIR to a folder that can be written",
                stacklevel=2,
            )
            dispatcher = njit(**options)(function)
        if signatures:
            KERNELS[name] = (dispatcher, signatures)
        return dispatcher

    return compiled


def load_all() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Import every file of kernels; returns `KERNELS`, complete."""
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PACKAGE}.{module.name}")
    return KERNELS


def cache_folder() -> str | None:
    """Where the machine code is kept; ``None``: nowhere, as no folder can be written."""
    for dispatcher, _ in load_all().values():
        if dispatcher.stats.cache_path:
            return str(dispatcher.stats.cache_path)
    return None


def warmup(progress: Callable[[], object] = lambda: None) -> dict[str, float]:
    """Compile every kernel for its usual signatures, or load it from disk.

    Args:
        progress: called after each kernel.

    Returns:
        The seconds that each kernel took, by name.
    """
    seconds = {}
    for name, (dispatcher, signatures) in load_all().items():
        start = time.perf_counter()
        for signature in signatures:
            dispatcher.compile(signature)
        seconds[name] = time.perf_counter() - start
        progress()
    return seconds

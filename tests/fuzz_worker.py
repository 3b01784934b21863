"""A process that tries files, one after the other, and says what came of it.

Reads a line of JSON for each trial from standard input: what to call (`ENTRIES`) and with what;
answers with a line of JSON: what came of it ("fine", "refused" by an error of ours, or "failed"),
and words. Its memory is limited; the parent sees when it dies.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exporters
import xai_onnx
from exporters.verify import verify
from xai_onnx.cli import main
from xai_onnx.errors import XaiOnnxError
from xai_onnx.preprocess import read_image

ROOM = 3 * 2**30  # bytes of address space beyond what the imports take


def export(model: str, output: str, labels: str | None) -> None:
    exporters.export_gradcam(model, output, preprocess="unit", labels=labels)


def explain(model: str, picture: str) -> None:
    loaded = xai_onnx.load(model)
    if loaded.manifest is None:
        return
    loaded.explain(picture, [-1, 0])


def picture(path: str) -> None:
    read_image(path)


def command(*words: str) -> None:
    """The command line: a refusal is exit code 2 and one line, with no trace of Python."""
    code, said = _captured(list(words))
    if code == 2:
        if said.count("\n") != 1 or not said.startswith("xai-onnx ") or "Traceback" in said:
            raise AssertionError(f"exit code 2 with other words than one line: {said!r}")
        raise XaiOnnxError(said)
    if code not in (0, 1) or said:
        raise AssertionError(f"exit code {code} with {said!r}")


def _captured(words: list[str]) -> tuple[int, str]:
    """Exit code and standard error, that of ONNX Runtime's C++ included."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    code = main(words)
                except SystemExit as error:
                    code = error.code if isinstance(error.code, int) else 2
            sys.stderr.flush()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return code, file.read().decode("utf-8", "replace")


ENTRIES: dict[str, Callable[..., Any]] = {
    "export": export,
    "explain": explain,
    "verify": verify,
    "picture": picture,
    "command": command,
}


def attempt(entry: str, arguments: list[Any]) -> list[str]:
    try:
        ENTRIES[entry](*arguments)
    except XaiOnnxError as error:
        return ["refused", f"{type(error).__name__}: {error}"]
    except BaseException:  # whatever it is, the parent is to know
        return ["failed", traceback.format_exc()]
    return ["fine", ""]


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


if __name__ == "__main__":
    limit_memory()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    print(json.dumps(["ready", ""]), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(attempt(task[0], task[1:])), file=answers, flush=True)

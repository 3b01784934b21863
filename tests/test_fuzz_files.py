"""Spoilt files: the end is success or one clear error, and nothing is left behind.

Trials run in a process of their own (`fuzz_worker`), with limited memory: a crash of the
interpreter counts as a failure. 90 of them are tried, always the same;
XAI_ONNX_FUZZ_EXAMPLES=5000 tries so many, each time others, of the seed that it prints
(XAI_ONNX_FUZZ_SEED).
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from corruptions import BYTES, GRAPHS, TEXTS, choose
from PIL import Image
from tiny_net import LABELS, PREPROCESS, photos, tiny_net

import exporters

MANY = os.environ.get("XAI_ONNX_FUZZ_EXAMPLES")
TRIALS = int(MANY or 90)
SEED = int(os.environ.get("XAI_ONNX_FUZZ_SEED", random.randrange(2**31) if MANY else 0))
PATIENCE = 300  # seconds, after which a trial counts as hanging

OLD = b"what stood here before"
ASSETS = resources.files("xai_onnx") / "assets"


class Worker:
    """A process that tries files, started again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, *task: Any) -> tuple[str, str]:
        """What came of it; "died" where nothing did."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        return self._answer(process)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("fuzz_worker.py")
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self._answer(self._process) == ("ready", "")
        return self._process

    def _answer(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        if line:
            outcome, words = json.loads(line)
            return outcome, words
        self.close()
        return "died", f"hung, or exit code {process.returncode}"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files before they are spoilt, by name."""
    folder = tmp_path_factory.mktemp("sound")
    Image.fromarray(photos(1)[0]).save(folder / "picture.jpg")
    Image.fromarray(photos(1)[0]).save(folder / "picture.png")
    lite0 = (ASSETS / "efficientnet_lite0.onnx").read_bytes()
    return {
        "plain.onnx": tiny_net("Softmax").SerializeToString(),
        "explained.onnx": exporters.explained_bytes(
            tiny_net("Softmax"), preprocess=PREPROCESS, labels=LABELS
        ),
        "lite0.onnx": lite0,
        "lite0_explained.onnx": exporters.explained_bytes(
            str(ASSETS / "efficientnet_lite0.onnx"), preprocess="lite"
        ),
        "picture.jpg": (folder / "picture.jpg").read_bytes(),
        "picture.png": (folder / "picture.png").read_bytes(),
        "labels.json": json.dumps(LABELS).encode(),
    }


def spoilt(rng: np.random.Generator, name: str, content: bytes) -> tuple[str, bytes]:
    """How the file was spoilt, and what it is now."""
    if name.endswith(".onnx") and rng.random() < 0.8:
        model = onnx.load_from_string(content)
        names = []
        for _ in range(1 if rng.random() < 0.8 else 2):
            way = choose(rng, GRAPHS)
            names.append(way.__name__)
            way(rng, model)
        return "+".join(names), model.SerializeToString()
    if name.endswith(".json") and rng.random() < 0.5:
        text = choose(rng, TEXTS)
        return text.__name__, text(rng, content.decode()).encode()
    way = choose(rng, BYTES)
    return way.__name__, way(rng, content)


# What reads each kind of file; "P" is the spoilt file, "O" an output.
READERS: dict[str, list[list[str | None]]] = {
    "plain.onnx": [
        ["export", "P", "O.onnx", None],
        ["verify", "explained.onnx", "P"],
        ["explain", "P", "picture.jpg"],
        ["command", "inspect", "P"],
        ["command", "export", "gradcam", "P", "-o", "O.onnx"],
        ["command", "explain", "P", "picture.png", "-o", "O.png", "--preprocess", "unit"],
        ["command", "verify", "explained.onnx", "P"],
    ],
    "explained.onnx": [
        ["explain", "P", "picture.jpg"],
        ["verify", "P", "plain.onnx"],
        ["export", "P", "O.onnx", None],
        ["command", "inspect", "P", "--json"],
        ["command", "explain", "P", "picture.png", "-o", "O.png"],
        ["command", "verify", "P", "plain.onnx"],
    ],
    "picture.jpg": [
        ["picture", "P"],
        ["explain", "explained.onnx", "P"],
        ["command", "explain", "explained.onnx", "P", "-o", "O.png"],
    ],
    "labels.json": [
        ["export", "plain.onnx", "O.onnx", "P"],
        ["command", "export", "gradcam", "plain.onnx", "-o", "O.onnx", "--labels", "P"],
    ],
}
LITE0 = {"plain.onnx": "lite0.onnx", "explained.onnx": "lite0_explained.onnx"}
for small, real in LITE0.items():
    renamed = [[LITE0.get(str(word), word) for word in reader] for reader in READERS[small]]
    READERS[real] = [reader for reader in renamed if "verify" not in reader]  # slow on a real one
READERS["picture.png"] = READERS["picture.jpg"]
SHARES = {
    "plain.onnx": 8,
    "explained.onnx": 7,
    "picture.jpg": 1,
    "picture.png": 1,
    "labels.json": 1,
}
SHARES |= {"lite0.onnx": 1, "lite0_explained.onnx": 1}


def run(worker: Worker, sound: dict[str, bytes], folder: Path, seed: int) -> tuple[str, str]:
    """One trial: what came of it, and a line about it."""
    rng = np.random.default_rng([SEED, seed])
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    kind = choose(rng, kinds)
    way, content = spoilt(rng, kind, sound[kind])
    reader = choose(rng, READERS[kind])
    for name, before in sound.items():
        if name in reader:
            (folder / name).write_bytes(before)
    (folder / f"spoilt{Path(kind).suffix}").write_bytes(content)
    there = rng.random() < 0.5
    task: list[Any] = []
    output = None
    for word in reader:
        if word == "P":
            task.append(str(folder / f"spoilt{Path(kind).suffix}"))
        elif word is not None and word.startswith("O."):
            output = folder / f"output{word[1:]}"
            if there:
                output.write_bytes(OLD)
            task.append(str(output))
        else:
            task.append(str(folder / word) if word in sound else word)
    before = sorted(folder.iterdir())
    outcome, words = worker.ask(*task)
    said = f"seed {seed}: {kind}, {way}, {' '.join(map(str, reader))}: {words}"
    if outcome == "refused":
        if sorted(folder.iterdir()) != before or (output and there and output.read_bytes() != OLD):
            return "left something behind", said
        if not words.removesuffix("\n").isprintable():
            return "refused in other than one line", said
    return outcome, said


def test_spoilt_files_are_refused_in_one_line_or_taken(worker, sound, tmp_path, capsys):
    tally: Counter[str] = Counter()
    wrong = []
    for seed in range(TRIALS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, said = run(worker, sound, folder, seed)
        tally[outcome] += 1
        if outcome not in ("fine", "refused"):
            wrong.append(said)
        for file in folder.iterdir():
            file.unlink()
    with capsys.disabled():
        print(f"\nspoilt files, seed {SEED}: {dict(tally)}")
    assert not wrong, "\n".join(wrong[:5])
    assert tally["fine"] < tally["refused"]

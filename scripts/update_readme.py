"""Run the commands that README.md shows, and put what they print into it.

    python scripts/update_readme.py

A block to fill stands behind a comment, ``<!-- run: COMMAND -->``, and its output is fenced. The
commands run one after the other in one temporary folder, which starts with the bundled photos and
plain model in it; what a ``<!-- keep: FILE -> PLACE -->`` names is copied to the repository.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
ASSETS = REPOSITORY / "xai_onnx" / "assets"
BLOCK = re.compile(r"(<!-- run: (?P<command>.+?) -->\n```\n)(?:.*?\n)??(```\n)", re.DOTALL)
KEEP = re.compile(r"<!-- keep: (?P<file>\S+) -> (?P<place>\S+) -->")


def main() -> int:
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for asset in ("coffee.jpg", "astronaut.jpg", "efficientnet_lite0.onnx"):
            shutil.copy(ASSETS / asset, folder / asset)
        shutil.copy(ASSETS / "imagenet_labels.json", folder / "labels.json")
        text = BLOCK.sub(lambda block: block[1] + run(block["command"], folder) + block[3], text)
        for kept in KEEP.finditer(text):
            shutil.copy(folder / kept["file"], REPOSITORY / kept["place"])
    README.write_text(text, encoding="utf-8")
    return 0


def run(command: str, folder: Path) -> str:
    """The command line and what it prints, as a reader would see it."""
    shell = command.replace("benchmarks/", f"{REPOSITORY}/benchmarks/")
    print("$", command, file=sys.stderr)
    done = subprocess.run(
        shell, shell=True, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 2):
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return f"$ {command}\n{done.stdout}{done.stderr}".rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())

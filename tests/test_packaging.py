"""What a user gets: the metadata, and a wheel that holds the two packages and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import xai_onnx

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("xai_onnx", "exporters")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Names of the files in the wheel, built offline from a copy: builds leave folders behind."""
    if not all((ROOT / name).is_dir() for name in PACKAGES):
        pytest.skip("the sources are not here: an installed wheel is being tested")
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built)]
    result = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = built.iterdir()
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def sources() -> set[str]:
    """Every file of the two packages in the source tree, named as in a wheel."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_version_is_that_of_the_installed_distribution():
    assert xai_onnx.__version__ == metadata.version("xai-onnx")


def test_public_names():
    assert callable(xai_onnx.load)
    assert isinstance(xai_onnx.Explanation, type)


def test_console_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="xai-onnx")
    assert callable(command.load())


def test_wheel_holds_the_two_packages_and_nothing_else(wheel):
    folders = {name.partition("/")[0] for name in wheel}
    assert folders == {*PACKAGES, f"xai_onnx-{xai_onnx.__version__}.dist-info"}


def test_wheel_holds_every_file_of_the_packages(wheel):
    packed = {name for name in wheel if name.partition("/")[0] in PACKAGES}
    assert packed == sources()


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_is_typed(wheel, package):
    assert f"{package}/py.typed" in wheel


def test_wheel_holds_every_asset(wheel):
    assets = {name for name in sources() if name.startswith("xai_onnx/assets/")}
    assert assets
    assert assets <= wheel


def test_wheel_holds_the_licences(wheel):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)

"""Which module may import what, read from the sources; and what `import xai_onnx` loads."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = {
    name: Path(importlib.util.find_spec(name).origin).parent for name in ("xai_onnx", "exporters")
}

TRAINING = {
    f"exporters.protopnet.{m}"
    for m in ("evidence", "loss", "model", "passes", "projection", "resume", "sources", "training")
} | {"exporters.protopnet.small_backbone"}

# What may be imported only by the modules (and what lies in them) on the right.
RESERVED = {
    "exporters": {"exporters", "xai_onnx.cli"},
    "onnx": {"exporters", "xai_onnx.cli"},
    "onnx_ir": {"exporters", "xai_onnx.cli"},
    "torch": {"exporters.torch_model", *TRAINING},
    "onnxscript": {"exporters.torch_model"},
    "numba": {"xai_onnx.lime"},
    "skimage": {"xai_onnx.lime"},
}

# Formulas of the run time's that the exporters write into files: the masks in a LIME file are
# those that the host would draw. NumPy only.
DESIGNS = {"xai_onnx.lime.file_masks"}

# All of the run time that the exporters may know: the contract between the two.
CONTRACT = {
    f"xai_onnx.{m}"
    for m in (
        *("manifest", "lime_file", "prototypes", "recipe", "errors", "output_file", "version"),
    )
}
# What training and run time must compute alike.
FORMULAS = {"xai_onnx.prototype_box", "xai_onnx.preprocess"}

NOT_LOADED = ("torch", "onnx", "onnx_ir", "numba", "skimage", "onnxruntime", "exporters")


def module_files() -> dict[str, Path]:
    """Every module of the two packages, by dotted name."""
    files = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts])
            files[name.removesuffix(".__init__")] = path
    return files


FILES = module_files()


def within(module: str, packages: set[str]) -> bool:
    """Whether `module` is one of `packages` or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """The modules that `source`, the text of `module`, imports anywhere, relative ones resolved.

    ``from a import b`` is ``a.b`` where that is a module of ours, and ``a`` otherwise.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                start = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{start}.{alias.name}"
                yield inner if inner in FILES else start
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield str(argument.value)


def imported(module: str) -> set[str]:
    path = FILES[module]
    return set(imports(module, path.read_text("utf-8"), path.name == "__init__.py"))


def test_the_reader_sees_every_form_of_import():
    source = (
        "import a.b as c\n"
        "from xai_onnx import manifest, load\n"
        "def f():\n    from ..errors import XaiOnnxError\n    from . import x\n"
        "    importlib.import_module('d.e'); __import__('g')\n"
    )
    assert set(imports("xai_onnx.lime.kernels", source)) == {
        *("a.b", "xai_onnx.manifest", "xai_onnx", "xai_onnx.errors", "xai_onnx.lime", "d.e", "g")
    }
    assert set(imports("xai_onnx.lime", "from .errors import E", is_package=True)) == {
        "xai_onnx.lime.errors"
    }


@pytest.mark.parametrize("reserved", RESERVED)
def test_reserved_packages_are_imported_only_where_allowed(reserved):
    allowed = RESERVED[reserved]
    found = {
        module
        for module in FILES
        if not within(module, allowed) and any(within(i, {reserved}) for i in imported(module))
    }
    assert not found, f"{found} import {reserved}; only {allowed or 'nothing'} may"


@pytest.mark.parametrize("module", sorted(m for m in FILES if within(m, {"exporters"})))
def test_exporters_know_only_the_contract(module):
    found = {i for i in imported(module) if within(i, {"xai_onnx"})}
    found -= CONTRACT | DESIGNS | FORMULAS
    assert not found, f"{module} imports {found}; of xai_onnx it may import {CONTRACT}"


@pytest.mark.parametrize("module", sorted(CONTRACT))
def test_the_contract_is_standard_library_only(module):
    foreign = {
        i
        for i in imported(module)
        if i.partition(".")[0] not in sys.stdlib_module_names and i not in CONTRACT
    }
    assert not foreign


def test_import_loads_nothing_heavy(tmp_path):
    code = f"import sys, xai_onnx\nprint(*(name for name in {NOT_LOADED!r} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES["xai_onnx"].parent)}
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert loaded.stdout.split() == []

"""README.md shows what its commands print, and says what is true of the tree."""

import re
from pathlib import Path

import pytest

from exporters.vjp_rules import VJP_RULES
from xai_onnx.recipe import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = re.findall(r"<!-- run: (.+?) -->\n```\n(.*?)```\n", README, re.DOTALL)


def test_every_command_is_shown_with_its_output():
    assert len(RUNS) == README.count("<!-- run:") > 5
    for command, shown in RUNS:
        first, *output = shown.splitlines()
        assert first == f"$ {command}"
        assert output


def test_the_operators_are_those_of_the_table():
    (shown,) = [shown for command, shown in RUNS if "VJP_RULES" in command]
    _, _, listed = shown.partition("\n")
    assert re.findall(r"\w+", listed) == sorted(VJP_RULES)


def test_the_presets_are_those_of_the_table():
    (shown,) = [shown for command, shown in RUNS if "PRESETS" in command]
    assert [line.split()[0] for line in shown.splitlines()[1:]] == list(PRESETS)


def test_what_it_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("package", ["xai_onnx", "exporters"])
def test_the_code_organization_names_every_module(package):
    if not (ROOT / package).is_dir():
        pytest.skip("the sources are elsewhere: this run tests the installed wheel")
    organization = README.partition("## Code organization")[2].partition("\n## ")[0]
    modules = {path.name for path in (ROOT / package).iterdir() if path.suffix == ".py"}
    folders = {
        path.name + "/"
        for path in (ROOT / package).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    missing = {name for name in modules | folders if f"  {name}" not in organization}
    assert missing <= {"__init__.py", "version.py"}

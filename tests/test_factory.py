"""`xai-onnx export gradcam pkg.module:factory`, in this process."""

import json
import subprocess
import sys

import pytest

from exporters.verify import verify
from xai_onnx.cli import main
from xai_onnx.cli.factory import is_factory

SOURCE = """
print("on import")
from torch import nn, rand
from small_nets import MobileNetV2, build, images

def pair():
    print("when called")
    return build("resnet_basic").train(), images(1)

def bare():
    return build("resnet_basic")

class Kinds:
    net = build("vgg")

def attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            t = self.features(x).flatten(2).transpose(1, 2)
            return self.fc(nn.functional.scaled_dot_product_attention(t, t, t).mean(1))
    return Net(), rand(1, 3, 12, 12)

def fails():
    raise RuntimeError("no\\nweights")

def leaves():
    raise SystemExit(3)

def three():
    return 3
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `export gradcam` in a folder that holds nets_of_mine.py; (output, error line)."""
    (tmp_path / "nets_of_mine.py").write_text(SOURCE)
    (tmp_path / "broken_of_mine.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the folder itself
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)

    def call(*arguments, code=0):
        capsys.readouterr()
        assert main(["export", "gradcam", *arguments, "-o", "e.onnx"]) == code
        output = capsys.readouterr()
        return output.out if code == 0 else output.err.splitlines()[-1]

    return call


def test_a_pair(run, tmp_path):
    out = run("nets_of_mine:pair", "--keep-plain", "plain.onnx", "--target-layer", "layer2")
    lines = out.splitlines()
    assert lines[0].startswith("e.onnx  ")
    assert lines[1] == "exporter      dynamo, opset 20"
    assert lines[3].startswith("target layer  relu_")
    checks = verify(tmp_path / "e.onnx", tmp_path / "plain.onnx")
    assert [check for check in checks if not check.passed] == []


def test_a_function_and_the_shape_of_its_input(run):
    data = json.loads(run("nets_of_mine:bare", "--input-shape", "1,3,64,64", "--json"))
    assert data["num_classes"] == 10
    assert data["torch"]["exporter"] == "dynamo, opset 20"
    assert data["torch"]["failures"] == []
    assert data["torch"]["difference"] <= 1e-4
    assert data["torch"]["example_shapes"] == [[2, 3, 64, 64]]


@pytest.mark.parametrize("name", ["Kinds.net", "MobileNetV2"])
def test_an_object_and_a_class(run, name):
    assert "exporter " in run(f"nets_of_mine:{name}", "--input-shape", "2,3,64,64")


def test_what_failed_before_is_said(run):
    arguments = ("nets_of_mine:attention", "--target-layer", "features.1")
    data = json.loads(run(*arguments, "--json"))
    assert data["torch"]["exporter"] == "dynamo, opset 20, eager attention"
    assert [failure["exporter"] for failure in data["torch"]["failures"]] == [
        "dynamo, opset 20",
        "dynamo, opset 20, math attention",
    ]
    assert all("only 4D query" in failure["reason"] for failure in data["torch"]["failures"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets_of_mine:bare",), "ResNet: an example input is needed: "),
        (("nets_of_mine:pair", "--input-shape", "1,3"), "--input-shape: nets_of_mine:pair gives"),
        (("nets_of_mine:bare", "--input-shape", "1,x"), "--input-shape '1,x': must be sizes as"),
        (("nets_of_mine:bare", "--input-shape", "1,3,8"), "ResNet: can't run on the example input"),
        (("nets_of_mine:none",), "nets_of_mine:none: there is no 'none' in nets_of_mine; it has "),
        (("nets_of_mine:fails",), "nets_of_mine:fails: fails: RuntimeError: no weights"),
        (("nets_of_mine:leaves",), "nets_of_mine:leaves: fails: SystemExit: 3"),
        (("nets_of_mine:three",), "nets_of_mine:three: what it gives is of type int; it must give"),
        (("no_nets:net",), "no_nets:net: no_nets can't be imported: ModuleNotFoundError: No mod"),
        (("broken_of_mine:net",), "broken_of_mine:net: broken_of_mine can't be imported: Modul"),
        (("nets_of_mine:pair", "--keep-plain", "p.pt"), "p.pt: a plain model is an .onnx file"),
        (
            ("nets_of_mine:pair", "--target-layer", "stem.0"),
            "ResNet: module 'stem.0' (Conv2d)",
        ),
        (("m.onnx", "--input-shape", "1,3,8,8"), "--input-shape goes with a torch module, pkg.mo"),
        (("m.onnx", "--keep-plain", "p.onnx"), "--keep-plain goes with a torch module, pkg.modul"),
        (("C:m.onnx",), "C:m.onnx: can't be read"),
    ],
)
def test_refused_in_one_line(run, arguments, message):
    error = run(*arguments, code=2)
    assert error.startswith(f"xai-onnx export: error: {message}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkg.module:factory", True),
        ("nets:Kinds.net", True),
        (r"C:\models\m.onnx", False),
        ("C:/models/m.onnx", False),
        ("C:m.onnx", False),
        ("m.onnx", False),
        ("module", False),
        ("a-b:c", False),
        (":net", False),
        ("nets:", False),
    ],
)
def test_the_form_of_a_factory(text, expected):
    assert is_factory(text) == expected


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets:net").write_bytes(b"")
    assert not is_factory("nets:net")


def test_the_exporters_load_no_torch():
    """`import exporters` does without, and so does a plain model."""
    code = "import sys, exporters, xai_onnx.cli\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["False"]

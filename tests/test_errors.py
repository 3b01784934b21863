import inspect

import pytest

from xai_onnx import errors
from xai_onnx.errors import LONGEST_REASON, XaiOnnxError, reason

LEAVES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, XaiOnnxError) and value is not XaiOnnxError
]


@pytest.mark.parametrize("leaf", LEAVES)
def test_each_is_a_built_in_too(leaf):
    """So that it can be caught without this package."""
    builtin = [base for base in leaf.__mro__ if base.__module__ == "builtins"]
    assert not {base.__name__ for base in builtin} <= {"Exception", "BaseException", "object"}
    assert leaf.__doc__


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_message_is_one_printable_line(leaf):
    assert str(leaf("a\nb \x1b[31m \udc80 é  ²")) == r"a\nb \x1b[31m \udc80 é  ²"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("", "ValueError('')"),
        ("\n two\n  lines \n", "two lines"),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got 1\n Expected 2", "Got 1 Expected 2"),
        ("/src/onnx/helper.cc:76: check: no sizes", "check: no sizes"),
        ("/a/graph.cc:16 void onnxruntime::Graph::Init() This is wrong.", "This is wrong."),
        ("see /home/me/model.onnx (or not)", "see /home/me/model.onnx (or not)"),
    ],
)
def test_another_librarys_message_in_one_line(text, line):
    assert reason(ValueError(text)) == line


def test_a_long_message_is_cut():
    line = reason(ValueError("word " * 1000))
    assert len(line) == LONGEST_REASON + len(" ...") - 1
    assert line.endswith("word ...")

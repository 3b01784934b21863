"""Class names from lists and files."""

import pytest
from tiny_net import LABELS

from exporters.labels import read_labels
from xai_onnx.errors import ManifestError


@pytest.mark.parametrize(
    "content",
    [
        b'["ant", "bee", "cat", "dog", "eel"]',
        b'\n ["ant", "bee", "cat", "dog", "eel"]\n',
        b"ant\nbee\ncat\ndog\neel\n",
        b"ant\r\nbee\r\ncat\r\ndog\r\neel",
        b"\xef\xbb\xbfant\nbee\ncat\ndog\neel\n",
        b'\xef\xbb\xbf["ant", "bee", "cat", "dog", "eel"]',
    ],
)
def test_files(tmp_path, content):
    path = tmp_path / "labels"
    path.write_bytes(content)
    assert read_labels(path, 5) == read_labels(str(path), 5) == LABELS


def test_lists():
    assert read_labels(list(LABELS), 5) == LABELS
    assert read_labels(None, 5) == ()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "^labels: has 1 names, the model 5 classes"),
        ([1, 2, 3, 4, 5], "^labels: must be a list of class names"),
        ({"a": 1}, "must be a list"),
    ],
)
def test_refusals(labels, message):
    with pytest.raises(ManifestError, match=message):
        read_labels(labels, 5)

import json
from dataclasses import fields, replace

import pytest

from xai_onnx.errors import ManifestError, PreprocessError
from xai_onnx.manifest import METADATA_KEY, SCHEMA_VERSION, Manifest
from xai_onnx.recipe import parse

MANIFEST = Manifest(
    method="gradcam",
    target_layer="/features/conv/Relu_output_0",
    score="logits",
    score_output="probabilities",
    output_activation="softmax",
    targets="class_index",
    top_k=None,
    input="image",
    class_index="class_index",
    activations="activations",
    cam="cam",
    saliency_map="saliency_map",
    num_classes=2,
    labels=("caffè", "茶"),
    preprocess=parse("torchvision", "NCHW", 224, 224),
    source_sha256="0" * 64,
    exporter_version="0.1.0",
)


def read(data):
    text = data if isinstance(data, str) else json.dumps(data)
    return Manifest.from_metadata({METADATA_KEY: text, "other": "x"}, "m.onnx")


@pytest.mark.parametrize(
    "manifest",
    [
        MANIFEST,
        replace(MANIFEST, labels=(), preprocess=None, saliency_map=None, output_activation=None),
        replace(MANIFEST, targets="predicted", top_k=3, class_index=None),
    ],
)
def test_round_trip(manifest):
    assert read(manifest.to_json()) == manifest


def test_json_is_one_readable_line_that_says_its_schema():
    text = MANIFEST.to_json()
    assert "\n" not in text
    assert "caffè" in text
    assert json.loads(text)["schema_version"] == SCHEMA_VERSION


def test_a_plain_model_has_none():
    assert Manifest.from_metadata({"author": "x"}, "m.onnx") is None


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_a_newer_schema_is_refused_by_its_number_whatever_else_it_holds(version):
    message = f"m.onnx: .*schema version {version}, .*up to {SCHEMA_VERSION}; upgrade xai-onnx"
    with pytest.raises(ManifestError, match=message):
        read({"schema_version": version, "a field of the future": 1})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=text[:8])
        for text in ("", "{", "[]", "5", "null", '"text"', "{}", "[" * 200_000)
    ],
)
def test_an_unreadable_manifest(text):
    with pytest.raises(ManifestError, match=r"^m\.onnx: .*not readable.*export the model again$"):
        read(text)


def test_a_schema_version_that_is_no_number():
    with pytest.raises(ManifestError, match="schema version one"):
        read({"schema_version": "one"})


@pytest.mark.parametrize("name", [field.name for field in fields(Manifest)])
def test_a_missing_field_is_named(name):
    data = json.loads(MANIFEST.to_json())
    del data[name]
    with pytest.raises(ManifestError, match=rf"differ from schema 1: \['{name}'\]"):
        read(data)


def test_an_unknown_field_is_named():
    with pytest.raises(ManifestError, match=r"\['surprise'\]"):
        read({**json.loads(MANIFEST.to_json()), "surprise": 1})


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Manifest) if field.name != "preprocess"]
)
def test_a_field_of_another_type_is_named(name):
    wrong = {**json.loads(MANIFEST.to_json()), name: {"neither": "text nor number"}}
    with pytest.raises(ManifestError, match=f"the manifest's {name} are not of the type"):
        read(wrong)


@pytest.mark.parametrize("labels", [None, "ab", [1, 2]])
def test_labels_are_a_list_of_text(labels):
    with pytest.raises(ManifestError, match="labels are not of the type"):
        read({**json.loads(MANIFEST.to_json()), "labels": labels})


def test_labels_are_as_many_as_classes():
    with pytest.raises(ManifestError, match="1 labels for 2 classes"):
        read(replace(MANIFEST, labels=("one",)).to_json())


@pytest.mark.parametrize("recipe", [{}, [], "unit"])
def test_malformed_preprocessing_names_the_file(recipe):
    with pytest.raises(PreprocessError, match=r"^m\.onnx: the preprocessing is malformed"):
        read({**json.loads(MANIFEST.to_json()), "preprocess": recipe})

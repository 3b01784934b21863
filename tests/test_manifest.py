import json
from dataclasses import fields, replace

import pytest

from xai_onnx.errors import ManifestError, PreprocessError
from xai_onnx.manifest import METADATA_KEY, SCHEMA_VERSION, Manifest
from xai_onnx.recipe import parse

MANIFEST = Manifest(
    method="gradcam",
    target_layers=("/features/conv/Relu_output_0",),
    target_modules=("features.conv",),
    score_at="logits",
    score="logits",
    score_output="probabilities",
    output_activation="softmax",
    targets="class_index",
    top_k=None,
    input="image",
    class_index="class_index",
    cotangent=None,
    extra_inputs={"mask": "mask_2"},
    activations=("activations",),
    cam="cam",
    attribution=None,
    saliency_map="saliency_map",
    num_classes=2,
    labels=("caffè", "茶"),
    preprocess=parse("torchvision", "NCHW", 224, 224),
    source_sha256="0" * 64,
    exporter_version="0.1.0",
)

ATTRIBUTION = replace(
    MANIFEST,
    method="integrated-gradients",
    target_layers=(),
    target_modules=(),
    activations=(),
    cam=None,
    attribution="attribution",
    extra_inputs={"steps": "steps", "baseline": "baseline_2"},
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
        replace(MANIFEST, targets="cotangent", class_index=None, cotangent="cotangent"),
        replace(
            MANIFEST,
            target_layers=("a", "b"),
            target_modules=("", "b"),
            activations=("activations", "activations_2"),
        ),
        ATTRIBUTION,
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


OPTIONAL = {"lime", "prototypes"}
REQUIRED = [field.name for field in fields(Manifest) if field.name not in OPTIONAL]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name):
    data = json.loads(MANIFEST.to_json())
    del data[name]
    with pytest.raises(ManifestError, match=rf"differ from schema 1: \['{name}'\]"):
        read(data)


def test_an_unknown_field_is_named():
    with pytest.raises(ManifestError, match=r"\['surprise'\]"):
        read({**json.loads(MANIFEST.to_json()), "surprise": 1})


@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "preprocess"])
def test_a_field_of_another_type_is_named(name):
    wrong = {**json.loads(MANIFEST.to_json()), name: {"neither": ["text", "nor", "number"]}}
    with pytest.raises(ManifestError, match=f"the manifest's {name} are not of the type"):
        read(wrong)


@pytest.mark.parametrize("labels", [None, "ab", [1, 2]])
def test_labels_are_a_list_of_text(labels):
    with pytest.raises(ManifestError, match="labels are not of the type"):
        read({**json.loads(MANIFEST.to_json()), "labels": labels})


@pytest.mark.parametrize("layers", ["features", [1], [None], {"a": "b"}])
def test_target_layers_are_a_list_of_text(layers):
    with pytest.raises(ManifestError, match="target_layers are not of the type"):
        read({**json.loads(MANIFEST.to_json()), "target_layers": layers})


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 0, "labels": ()},
        {"targets": "all"},
        {"targets": "predicted"},
        {"targets": "predicted", "top_k": 1},
        {"targets": "cotangent"},
        {"class_index": None},
        {"cotangent": "cotangent"},
        {"top_k": 1},
    ],
    ids=str,
)
def test_targets_that_contradict_each_other(changes):
    with pytest.raises(ManifestError, match="contradicts itself: num_classes, targets"):
        read(replace(MANIFEST, **changes).to_json())


@pytest.mark.parametrize(
    ("manifest", "changes"),
    [
        (MANIFEST, {"cam": None}),
        (MANIFEST, {"attribution": "attribution"}),
        (MANIFEST, {"cam": None, "attribution": "attribution"}),
        (MANIFEST, {"activations": ()}),
        (MANIFEST, {"target_modules": ()}),
        (MANIFEST, {"target_layers": ("a", "b"), "target_modules": ("", "")}),
        (MANIFEST, {"target_layers": (), "target_modules": (), "activations": ()}),
        (ATTRIBUTION, {"attribution": None}),
        (ATTRIBUTION, {"cam": "cam"}),
        (ATTRIBUTION, {"attribution": None, "cam": "cam"}),
    ],
    ids=str,
)
def test_outputs_that_contradict_each_other(manifest, changes):
    with pytest.raises(ManifestError, match="contradicts itself: cam, attribution, target_layers"):
        read(replace(manifest, **changes).to_json())


def test_the_map_is_that_of_the_method():
    assert (MANIFEST.map, ATTRIBUTION.map) == ("cam", "attribution")


INPUTS = ("image", "class_index", "mask_2", "steps", "baseline_2")
OUTPUTS = ("probabilities", "activations", "cam", "attribution", "saliency_map")


@pytest.mark.parametrize(
    ("manifest", "lacking"),
    [
        *((MANIFEST, name) for name in ("image", "class_index")),
        *((MANIFEST, name) for name in ("probabilities", "activations", "cam", "saliency_map")),
        *((ATTRIBUTION, name) for name in ("steps", "baseline_2", "attribution")),
    ],
)
def test_names_that_the_file_lacks(manifest, lacking):
    manifest.check_names(INPUTS, OUTPUTS, "m.onnx")
    kind = "input" if lacking in INPUTS else "output"
    with pytest.raises(ManifestError, match=f"names the {kind} '{lacking}', which the file"):
        manifest.check_names(set(INPUTS) - {lacking}, set(OUTPUTS) - {lacking}, "m.onnx")


def test_labels_are_as_many_as_classes():
    with pytest.raises(ManifestError, match="1 labels for 2 classes"):
        read(replace(MANIFEST, labels=("one",)).to_json())


@pytest.mark.parametrize("recipe", [{}, [], "unit"])
def test_malformed_preprocessing_names_the_file(recipe):
    with pytest.raises(PreprocessError, match=r"^m\.onnx: the preprocessing is malformed"):
        read({**json.loads(MANIFEST.to_json()), "preprocess": recipe})

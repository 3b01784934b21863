"""The file and its bank: names, shapes, options, what is refused."""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
import torch
from official_protopnet import BACKBONES, trained
from safetensors import safe_open
from small_protopnet import backbone, projected, small_arrays
from tiny_net import finished

import exporters
import xai_onnx
from exporters.protopnet.arrays import ProtoPNetArrays
from exporters.protopnet.bank import bank_bytes
from exporters.protopnet.export import familiar_similarity
from xai_onnx.errors import (
    ManifestError,
    MethodError,
    OutputFileError,
    PreprocessError,
    PrototypeError,
)
from xai_onnx.manifest import METADATA_KEY, Manifest


def declared(path):
    graph = onnx.load(path).graph
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def bank_of(path):
    with safe_open(path.with_name(path.stem + ".protobank.safetensors"), "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model.onnx"


class TestFile:
    def test_the_contract(self, output):
        exporters.export_protopnet(small_arrays(), output, top_count=5, activation_maps=True)
        assert declared(output) == {
            "image": ["batch", 3, 32, 32],
            "class_index": ["batch", 1],
            "logits": ["batch", 4],
            "similarities": ["batch", 12],
            "min_distances": ["batch", 12],
            "locations": ["batch", 12],
            "top_indices": ["batch", 5],
            "top_maps": ["batch", 5, 8, 8],
            "activation_maps": ["batch", 12, 8, 8],
        }
        model = onnx.load(output)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}

    def test_for_the_predicted_class(self, output):
        manifest = exporters.export_protopnet(small_arrays(), output, targets="predicted")
        assert "class_index" not in declared(output)
        assert (manifest.targets, manifest.top_k, manifest.class_index) == ("predicted", 1, None)

    def test_a_fixed_batch(self, output):
        arrays = small_arrays(backbone=backbone(batch=4))
        exporters.export_protopnet(arrays, output)
        assert declared(output)["top_maps"] == [4, 10, 8, 8]
        pictures = [np.zeros((32, 32, 3), np.uint8)] * 3
        assert len(xai_onnx.load(output, preprocess="unit").explain(pictures)) == 3

    def test_a_value_inside_a_classifier(self, output):
        """What lies behind the latent grid is left out."""
        arrays = small_arrays(backbone=backbone(extra=True))
        exporters.export_protopnet(arrays, output, feature="z")
        assert "pooled" not in declared(output)
        assert "GlobalAveragePool" not in {node.op_type for node in onnx.load(output).graph.node}

    def test_names_that_the_backbone_uses_get_a_suffix(self, output):
        model = backbone()
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [{"c1": "logits", "early": "top_maps"}.get(n, n) for n in names]
        manifest = exporters.export_protopnet(small_arrays(backbone=model), output)
        assert manifest.score_output == "logits_2"
        assert manifest.prototypes.top_maps == "top_maps_2"
        pictures = np.zeros((1, 32, 32, 3), np.uint8)
        assert xai_onnx.load(output, preprocess="unit").explain(list(pictures))

    @pytest.mark.slow
    def test_a_torch_backbone(self, output):
        model = trained(BACKBONES["vgg"]())
        with torch.no_grad():
            module = torch.nn.Sequential(model.features, model.add_on_layers)
        arrays = ProtoPNetArrays(
            prototypes=model.prototype_vectors.detach().numpy(),
            prototype_class=np.arange(6) // 2,
            weights=model.last_layer.weight.detach().numpy(),
            backbone=module,
        )
        pictures = torch.rand(2, 3, 32, 32)
        exporters.export_protopnet(arrays, output, example_input=pictures)
        found = xai_onnx.load(output).explain(pictures.numpy(), preprocessed=True)
        with torch.no_grad():
            expected = model(pictures)[0].numpy()
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got.scores, want, rtol=1e-4, atol=1e-4)

    def test_the_manifest_comes_back(self, output):
        manifest = exporters.export_protopnet(
            small_arrays(labels=("a", "b", "c", "d")), output, preprocess="unit"
        )
        assert xai_onnx.load(output).manifest == manifest
        assert manifest.prototypes.receptive_field.size == 7
        assert manifest.prototypes.bank == "model.protobank.safetensors"

    def test_nothing_is_written_where_something_fails(self, output):
        with pytest.raises(PreprocessError):
            exporters.export_protopnet(small_arrays(), output, preprocess="nonsense")
        assert list(output.parent.iterdir()) == []


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "options", "error", "words"),
        [
            ({"backbone": None}, {}, PrototypeError, "come without a backbone"),
            ({}, {"targets": "class_index"}, MethodError, "none of one_class, predicted"),
            ({}, {"feature": "none"}, PrototypeError, "has no value 'none'"),
            ({}, {"feature": "c1"}, PrototypeError, r"'c1' \['batch', 8, 16, 16\] are a latent"),
            ({"backbone": backbone(5)}, {}, PrototypeError, r"grid \[batch, 6, h, w\]"),
            ({"backbone": backbone(size="side")}, {}, PrototypeError, "has no fixed size"),
            ({}, {"labels": ["a"]}, ManifestError, "has 1 names, the model 4 classes"),
        ],
        ids=lambda value: str(value)[:20] if isinstance(value, str) else None,
    )
    def test_what_does_not_fit(self, output, changes, options, error, words):
        with pytest.raises(error, match=words):
            exporters.export_protopnet(replace(small_arrays(), **changes), output, **options)

    def test_another_suffix(self, tmp_path):
        with pytest.raises(OutputFileError, match=r"an \.onnx file"):
            exporters.export_protopnet(small_arrays(), tmp_path / "model.bin")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"prototypes": np.zeros((12, 6), np.float32)}, "prototypes must be float32"),
            ({"prototypes": np.zeros((12, 6, 1, 1))}, "not float64"),
            (
                {"weights": np.zeros((4, 11), np.float32)},
                r"weights must be float32 \[classes, 12\]",
            ),
            ({"prototype_class": np.zeros(11, np.int64)}, "prototype_class must be int64"),
            ({"prototype_class": np.full(12, 4)}, "must lie in 0 to 3"),
            ({"prototypes": np.full((12, 6, 1, 1), np.nan, np.float32)}, "NaN or infinity"),
            ({"similarity": "cosine"}, "'cosine' is none of log, linear"),
            ({"epsilon": 0.0}, "epsilon must lie between 0 and 1"),
            ({"labels": ("a",)}, "1 labels for 4 classes"),
        ],
    )
    def test_arrays_that_contradict_each_other(self, changes, words):
        with pytest.raises(PrototypeError, match=words):
            replace(small_arrays(), **changes)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("grid", [8], "grid must be 2 whole number"),
            ("count", 0, "count must be 1 whole number"),
            ("count", True, "count must be 1 whole number"),
            ("bank", "../x.protobank.safetensors", "no .* beside the model"),
            ("bank", "x.onnx", "beside the model"),
            ("familiar", "high", "malformed"),
            ("similarity", "cosine", "similarity 'cosine'"),
            ("redacted", 1, "redacted must be true or false"),
            ("receptive_field", {"cells": 3}, "malformed"),
            ("activation_maps", 3, "activation_maps must be text"),
            ("top_maps", None, "top_maps must be text"),
            ("surprise", 1, "unknown fields"),
        ],
    )
    def test_a_damaged_manifest(self, output, name, value, words):
        manifest = exporters.export_protopnet(small_arrays(), output)
        data = json.loads(manifest.to_json())
        data["prototypes"][name] = value
        with pytest.raises(ManifestError, match=words):
            Manifest.from_metadata({METADATA_KEY: json.dumps(data)}, "m.onnx")

    def test_a_manifest_with_a_map_and_prototypes(self, output):
        manifest = exporters.export_protopnet(small_arrays(), output)
        data = {**json.loads(manifest.to_json()), "cam": "cam"}
        with pytest.raises(ManifestError, match="contradicts itself"):
            Manifest.from_metadata({METADATA_KEY: json.dumps(data)}, "m.onnx")

    def test_verify_says_what_it_is_for(self, output, tmp_path):
        from exporters.verify import verify

        exporters.export_protopnet(small_arrays(), output)
        onnx.save(backbone(), tmp_path / "plain.onnx")
        with pytest.raises(MethodError, match="explains by prototypes"):
            verify(output, tmp_path / "plain.onnx")


class TestBank:
    def test_what_it_holds(self, output):
        arrays, pictures = projected()
        manifest = exporters.export_protopnet(arrays, output)
        bank = output.with_name(manifest.prototypes.bank)
        assert hashlib.sha256(bank.read_bytes()).hexdigest() == manifest.prototypes.bank_sha256
        found = bank_of(output)
        for name in ("prototype_class", "weights"):
            np.testing.assert_array_equal(found[name], getattr(arrays, name))
        for name in ("locations", "boxes", "receptive_boxes", "self_similarity"):
            np.testing.assert_array_equal(found[name], getattr(arrays.sources, name))
        start, end = found["patches_offsets"][4]
        assert found["patches"][start:end].tobytes() == arrays.sources.patches[4]
        assert found["image_sha256"][2].tobytes() == hashlib.sha256(pictures[2].tobytes()).digest()

    def test_redacted(self, output):
        arrays, _ = projected()
        manifest = exporters.export_protopnet(arrays, output, redacted=True)
        assert manifest.prototypes.redacted
        found = bank_of(output)
        assert not {name for name in found if name.startswith(("patches", "pictures"))}
        content = output.with_name(manifest.prototypes.bank).read_bytes()
        assert b"\xff\xd8\xff" not in content  # how a JPEG begins

    def test_the_same_bytes_each_time(self):
        arrays, _ = projected()
        assert bank_bytes(arrays) == bank_bytes(arrays)

    def test_equal_pictures_are_stored_once(self):
        arrays, _ = projected()
        same = replace(arrays.sources, pictures=(arrays.sources.pictures[0],) * 12)
        length = len(bank_bytes(replace(arrays, sources=same)))
        others = sum(map(len, arrays.sources.pictures[1:]))
        assert length < len(bank_bytes(arrays)) - others + 8

    def test_sources_of_another_length(self):
        arrays, _ = projected()
        with pytest.raises(PrototypeError, match="locations have not one entry"):
            replace(arrays.sources, locations=np.zeros(3, np.int64))

    def test_unknown_sources(self, output):
        exporters.export_protopnet(small_arrays(), output)
        assert (bank_of(output)["boxes"] == -1).all()


class TestFamiliar:
    def test_half_way_to_another_class(self):
        vectors = np.array([[0, 0], [0.1, 0], [1, 0]], np.float32)[:, :, None, None]
        arrays = ProtoPNetArrays(
            prototypes=vectors,
            prototype_class=np.array([0, 0, 1]),
            weights=np.ones((2, 3), np.float32),
        )
        # To the nearest of another class: 1, 0.81, 0.81; the median's quarter.
        expected = np.log((0.81 / 4 + 1) / (0.81 / 4 + 1e-4))
        assert familiar_similarity(arrays) == pytest.approx(expected, rel=1e-6)
        linear = replace(arrays, similarity="linear")
        assert familiar_similarity(linear) == pytest.approx(-0.81 / 4, rel=1e-6)

    def test_one_class_only(self):
        assert np.isfinite(familiar_similarity(small_arrays(1, 1)))

    def test_as_the_model_says(self, output):
        arrays = small_arrays(familiar=2.25)
        assert exporters.export_protopnet(arrays, output).prototypes.familiar == 2.25
        asked = exporters.export_protopnet(arrays, output, familiar=3.5)
        assert asked.prototypes.familiar == 3.5
        with pytest.raises(PrototypeError, match="familiar must be a finite number, not nan"):
            small_arrays(familiar=float("nan"))

    def test_as_asked_for(self, output):
        manifest = exporters.export_protopnet(small_arrays(), output, familiar=3.5)
        assert asdict(manifest)["prototypes"]["familiar"] == 3.5


def test_the_field_of_a_pooled_grid_is_the_whole_picture(output):
    model = backbone()
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["z"], ["squeezed"]),
        onnx.helper.make_node("Mul", ["z", "squeezed"], ["scaled"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "scaled"
    arrays = small_arrays(backbone=finished(model.graph))
    assert exporters.export_protopnet(arrays, output).prototypes.receptive_field is None

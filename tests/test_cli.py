"""Every command in this process, and the whole program once in its own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from other_nets import segmentation_net, two_heads, vision_transformer
from PIL import Image
from tiny_net import LABELS, photos, saved, tiny_net

import xai_onnx
from xai_onnx import cli
from xai_onnx.cli import main, suspect
from xai_onnx.manifest import METADATA_KEY, Manifest
from xai_onnx.methods import ATTRIBUTIONS, CAMS

COMMANDS = ("demo", "inspect", "export", "explain", "nearest", "verify", "bench", "warmup")


@pytest.fixture
def run(capsys):
    """Run a command; its standard output comes back. Any other exit code than 0 fails."""

    def call(*arguments, code=0):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return call


@pytest.fixture
def pictures(tmp_path):
    """Three picture files, named a, b and c."""
    paths = []
    for name, pixels in zip("abc", photos(3), strict=True):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


def is_picture(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.width > 200


def size(path):
    with Image.open(path) as picture:
        return picture.size


def manifest(path):
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return Manifest.from_metadata(metadata, str(path))


class TestDemo:
    def test_pictures_and_an_explained_file(self, run, tmp_path):
        folder = tmp_path / "new" / "demo"
        data = json.loads(run("demo", "-o", folder, "--json"))
        assert sorted(path.name for path in folder.iterdir()) == [
            "astronaut.png",
            "coffee.png",
            "efficientnet_lite0.gradcam.onnx",
        ]
        assert data["model"] == str(folder / "efficientnet_lite0.gradcam.onnx")
        assert [e["label"] for e in data["explanations"]] == ["espresso", "football helmet"]
        assert all(is_picture(e["picture"]) for e in data["explanations"])
        assert xai_onnx.load(data["model"]).explain(photos(1)[0]).saliency_map.shape == (224, 224)

    def test_text(self, run, tmp_path):
        lines = run("demo", "-o", tmp_path).splitlines()
        assert len(lines) == 3
        assert lines[0].startswith(
            f"{tmp_path}/efficientnet_lite0.gradcam.onnx  EfficientNet-Lite0"
        )
        assert lines[1].startswith(f"{tmp_path}/coffee.png  espresso, ")

    def test_prototypes(self, run, tmp_path):
        data = json.loads(run("demo", "--method", "protopnet", "-o", tmp_path, "--json"))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "ankle_boot.png",
            "bag.png",
            "dress.png",
            "fashion_protopnet.onnx",
            "fashion_protopnet.protobank.safetensors",
        ]
        assert [e["label"] for e in data["explanations"]] == ["Ankle boot", "Bag", "Dress"]
        assert all(is_picture(e["picture"]) for e in data["explanations"])
        for explanation in data["explanations"]:
            further = explanation["further_prototypes"].values()
            points = sum(part["evidence"] for part in (*explanation["matches"], *further))
            assert points == pytest.approx(explanation["score"], rel=1e-4)


class TestInspect:
    def test_plain_json(self, run, tiny):
        data = json.loads(run("inspect", tiny, "--json"))
        assert data["opset"] == 18
        assert data["inputs"] == [
            {"name": "image", "type": "tensor(float)", "shape": ["batch", 3, 32, 32]}
        ]
        assert [port["name"] for port in data["outputs"]] == ["logits"]
        assert data["score"] == {
            "value": "logits",
            "classes": 5,
            "output": "logits",
            "output_activation": None,
        }
        assert data["target_layer"] == "features"
        assert [c["value"] for c in data["candidates"]] == ["c1", "early", "c2", "features"]
        assert data["candidates"][-1]["shape"] == ["batch", 16, 8, 8]
        assert data["operators_without_rule"] == []
        guesses = data["suspected_preprocessing"]
        assert len(guesses) == 3
        assert guesses == sorted(guesses, key=lambda guess: guess["entropy"])

    def test_plain_text(self, run, tmp_path):
        text = run("inspect", saved(tiny_net("Softmax"), tmp_path / "s.onnx"))
        assert "score  logits, 5 classes, before the softmax that ends in scores" in text
        assert "*  features  [batch, 16, 8, 8]" in text
        assert "operators without a gradient rule: none" in text
        assert "suspected preprocessing" in text

    def test_operators_without_a_rule_are_named(self, run, tmp_path):
        """An operator that can't be differentiated moves the choice behind it, or is told."""
        tail = [onnx.helper.make_node("Det", ["features"], ["d"], name="det")]
        tail.append(onnx.helper.make_node("Reshape", ["d", "four"], ["tail"]))
        four = {"four": np.array([0, 16, 1, 1])}
        path = saved(tiny_net(tail=tail, arrays=four), tmp_path / "det.onnx")
        data = json.loads(run("inspect", path, "--json"))
        assert data["operators_without_rule"] == ["Det"]
        assert {c["operator_without_rule"] for c in data["candidates"]} == {"Det"}
        assert "no rule for Det behind it" in run("inspect", path)

    def test_no_target_layer_is_said_with_its_reason(self, run, tmp_path):
        net = onnx.helper.make_graph(
            [
                onnx.helper.make_node("Flatten", ["image"], ["flat"]),
                onnx.helper.make_node("Gemm", ["flat", "w"], ["scores"]),
            ],
            "linear",
            [onnx.helper.make_tensor_value_info("image", 1, ["b", 3, 4, 4])],
            [onnx.helper.make_tensor_value_info("scores", 1, ["b", 2])],
            [onnx.numpy_helper.from_array(np.ones((48, 2), np.float32), "w")],
        )
        opset = onnx.helper.make_opsetid("", 18)
        model = onnx.helper.make_model(net, opset_imports=[opset], ir_version=8)
        path = saved(model, tmp_path / "linear.onnx")
        text = run("inspect", path)
        assert "possible target layers, * is the one taken:\n  none" in text
        assert "none taken: found no feature map" in text
        assert json.loads(run("inspect", path, "--json"))["target_layer"] is None

    def test_explained(self, run, tiny_explained):
        data = json.loads(run("inspect", tiny_explained, "--json"))
        assert data["target_layers"] == ["features"]
        assert data["labels"] == list(LABELS)
        text = run("inspect", tiny_explained)
        assert "method             gradcam" in text
        assert "labels             5 names" in text

    def test_the_bundled_model_gives_its_preprocessing_away(self, run, lite0):
        data = json.loads(run("inspect", lite0, "--json"))
        best = data["suspected_preprocessing"][0]
        assert (best["preset"], best["color"]) in {("lite", "RGB"), ("inception", "RGB")}

    @pytest.mark.parametrize("options", [{"channels": 1}, {"dtype": "uint8"}, {"gain": np.nan}])
    def test_no_guess_where_there_is_none(self, run, tmp_path, options):
        """JSON has no NaN, and neither a grey model nor one of integers is guessed at."""
        data = json.loads(
            run("inspect", saved(tiny_net(**options), tmp_path / "m.onnx"), "--json"),
            parse_constant=pytest.fail,
        )
        assert data["suspected_preprocessing"] == []
        assert data["target_layer"] == "features"

    def test_no_guess_where_more_than_a_picture_is_taken(self, run, tmp_path):
        net = two_heads()
        del net.graph.output[1]
        data = json.loads(run("inspect", saved(net, tmp_path / "m.onnx"), "--json"))
        assert [port["name"] for port in data["inputs"]] == ["image", "meta"]
        assert data["suspected_preprocessing"] == []
        assert data["target_layer"] == "features"

    def test_tokens(self, run, tmp_path):
        """Candidates are shown as they are read, [B, C, h, w]."""
        path = saved(vision_transformer(), tmp_path / "vit.onnx")
        data = json.loads(run("inspect", path, "--json"))
        assert data["target_layer"] == "norm1"
        assert {tuple(c["shape"]) for c in data["candidates"]} == {("batch", 8, 4, 4)}

    def test_a_fixed_batch_and_a_free_size_are_guessed_at_too(self, run, tmp_path):
        path = saved(tiny_net(batch=2, size="side"), tmp_path / "m.onnx")
        assert len(json.loads(run("inspect", path, "--json"))["suspected_preprocessing"]) == 3


def test_entropy_is_that_of_the_probabilities():
    logits = np.log(np.array([[0.5, 0.25, 0.25]], np.float32)) + 3
    assert suspect._entropy(logits) == pytest.approx(1.5)
    assert suspect._entropy(np.array([[0.5, 0.25, 0.25]], np.float32)) == pytest.approx(1.5)
    assert suspect._entropy(np.array([[1.0, 0.0]], np.float32)) == pytest.approx(0)


class TestExport:
    def test_every_option(self, run, tmp_path, labels):
        plain, out = saved(tiny_net("Softmax"), tmp_path / "p.onnx"), tmp_path / "out.onnx"
        arguments = ["--target-layer", "early", "--preprocess", "torchvision,color=BGR"]
        arguments += ["--labels", labels, "--score", "output", "--targets", "predicted"]
        arguments += ["--top-k", "2", "--no-saliency-map", "--json"]
        data = json.loads(run("export", "gradcam", plain, "-o", out, *arguments))
        written = manifest(out)
        assert tuple(data["target_layers"]) == written.target_layers == ("early",)
        assert written.preprocess.color == "BGR"
        assert written.labels == LABELS
        assert (written.score, written.output_activation) == ("scores", "softmax")
        assert (written.targets, written.top_k, written.class_index) == ("predicted", 2, None)
        assert written.saliency_map is None
        onnx.checker.check_model(str(out), full_check=True)

    def test_text(self, run, tmp_path, labels):
        plain, out = saved(tiny_net("Softmax"), tmp_path / "p.onnx"), tmp_path / "out.onnx"
        before = os.path.getsize(plain)
        lines = run("export", "gradcam", plain, "-o", out, "--labels", labels).splitlines()
        grown = os.path.getsize(out) / before - 1
        assert lines == [
            f"{out}  0.01 MB, {grown:+.2%}",
            "method        Grad-CAM",
            "target layer  features",
            "score         logits, before the softmax",
            "preprocess    unknown: takes ready tensors only",
            "labels        5",
        ]

    @pytest.mark.parametrize("method", CAMS)
    def test_every_cam(self, run, tiny, tmp_path, method):
        out = tmp_path / "out.onnx"
        text = run("export", "gradcam", tiny, "-o", out, "--method", method)
        assert f"method        {CAMS[method]}\n" in text
        assert manifest(out).method == method

    def test_several_layers(self, run, tiny, tmp_path):
        out, layers = tmp_path / "out.onnx", ["features", "early"]
        options = [word for layer in layers for word in ("--target-layer", layer)]
        text = run("export", "gradcam", tiny, "-o", out, *options)
        assert "target layer  features, early\n" in text
        assert manifest(out).target_layers == ("features", "early")
        assert run("verify", out, tiny).count("ok ") == 5

    @pytest.mark.parametrize("method", ATTRIBUTIONS)
    def test_every_attribution(self, run, tiny, tmp_path, method):
        out = tmp_path / "out.onnx"
        options = ["--method", method, "--targets", "predicted", "--top-k", "2", "--json"]
        data = json.loads(run("export", "attribution", tiny, "-o", out, *options))
        written = manifest(out)
        assert data["method"] == written.method == method
        assert (written.cam, written.attribution, written.top_k) == (None, "attribution", 2)
        assert run("verify", out, tiny).count("ok ") == 5

    def test_an_attribution_in_words(self, run, tiny, tmp_path):
        out = tmp_path / "out.onnx"
        options = ["--method", "integrated-gradients", "--no-saliency-map"]
        lines = run("export", "attribution", tiny, "-o", out, *options).splitlines()
        assert lines[1:3] == [
            "method        integrated gradients",
            "target layer  none: to the pixels",
        ]
        assert lines[-1] == "takes also    steps, baseline"
        assert manifest(out).saliency_map is None
        text = run("inspect", out)
        assert "method             integrated-gradients" in text

    def test_attribution_without_a_method_is_saliency(self, run, tiny, tmp_path):
        out = tmp_path / "out.onnx"
        run("export", "attribution", tiny, "-o", out)
        assert manifest(out).method == "saliency"

    @pytest.mark.parametrize("kind", ["gradcam", "attribution"])
    def test_scores_that_are_no_classes(self, run, tmp_path, kind):
        plain, out = saved(segmentation_net(), tmp_path / "p.onnx"), tmp_path / "out.onnx"
        options = ["--target-layer", "features"] if kind == "gradcam" else []
        text = run("export", kind, plain, "-o", out, "--score", "region:low", *options)
        assert "(region:low)\n" in text
        assert "takes also    mask" in text
        assert manifest(out).score_at == "region:low"
        assert run("verify", out, plain).count("ok ") == 5

    def test_one_of_two_pictures_and_of_two_scores(self, run, tmp_path):
        net = two_heads()
        net.graph.input.append(onnx.helper.make_tensor_value_info("other", 1, ["b", 3, 9, 9]))
        plain, out = saved(net, tmp_path / "p.onnx"), tmp_path / "out.onnx"
        run("export", "gradcam", plain, "-o", out, "--input", "image", "--score", "aux")
        written = manifest(out)
        assert (written.input, written.score) == ("image", "aux")
        assert written.extra_inputs == {"meta": "meta", "other": "other"}

    def test_weights_of_the_scores_as_an_input(self, run, tiny, tmp_path):
        out = tmp_path / "out.onnx"
        run("export", "gradcam", tiny, "-o", out, "--targets", "cotangent")
        assert (manifest(out).cotangent, manifest(out).class_index) == ("cotangent", None)

    def test_over_the_input_itself(self, run, tmp_path):
        """The file is replaced once the new one is whole; growth is told against the old one."""
        plain = Path(saved(tiny_net(), tmp_path / "p.onnx"))
        before = plain.read_bytes()
        text = run("export", "gradcam", plain, "-o", plain)
        grown = plain.stat().st_size / len(before) - 1
        assert grown > 0.1
        assert f"{grown:+.2%}" in text
        assert "labels        none" in text
        assert manifest(plain).source_sha256 == _sha256(before)
        assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]

    def test_the_file_is_the_same_each_time(self, run, tiny, tmp_path):
        for name in ("a.onnx", "b.onnx"):
            run("export", "gradcam", tiny, "-o", tmp_path / name)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


class TestExplain:
    def test_one_picture(self, run, tiny_explained, pictures, tmp_path):
        out = tmp_path / "out.jpg"
        text = run("explain", tiny_explained, pictures[0], "-o", out)
        predicted = xai_onnx.load(tiny_explained).predict(photos(3)[0])
        assert text.startswith(f"{out}  {predicted.label} ({predicted.target}), ")
        assert "peak at x " in text
        assert is_picture(out)

    def test_several_pictures_to_a_folder(self, run, tiny_explained, pictures, tmp_path):
        folder = tmp_path / "new" / "figures"
        data = json.loads(run("explain", tiny_explained, *pictures, "-o", folder, "--json"))
        assert [Path(row["picture"]) for row in data] == [folder / f"{x}.png" for x in "abc"]
        assert [row["image"] for row in data] == [str(path) for path in pictures]
        assert all(is_picture(row["picture"]) for row in data)
        (explanation,) = data[2]["explanations"]
        expected = xai_onnx.load(tiny_explained).explain(photos(3)[2])
        assert explanation == json.loads(json.dumps(expected.to_dict()))

    def test_one_picture_to_a_folder(self, run, tiny_explained, pictures, tmp_path):
        run("explain", tiny_explained, pictures[1], "-o", tmp_path / "figures")
        assert is_picture(tmp_path / "figures" / "b.png")

    def test_the_highest_scores(self, run, tiny_explained, pictures, tmp_path):
        out = tmp_path / "out.png"
        run("explain", tiny_explained, pictures[0], "-o", out)
        narrow = size(out)
        command = ["explain", tiny_explained, pictures[0], "-o", out, "--top-k", "3", "--json"]
        (row,) = json.loads(run(*command))
        scores = xai_onnx.load(tiny_explained).predict(photos(3)[0]).scores
        assert [e["target"] for e in row["explanations"]] == list(np.argsort(-scores)[:3])
        assert size(out) > narrow, "a panel for each class"

    @pytest.mark.parametrize(
        ("targets", "expected"), [(["cat"], [2]), (["4", "bee"], [4, 1]), (["-1"], None)]
    )
    def test_classes_by_index_and_label(
        self, run, tiny_explained, pictures, tmp_path, targets, expected
    ):
        options = [word for target in targets for word in ("--target", target)]
        command = ["explain", tiny_explained, pictures[0], "-o", tmp_path / "o.png", *options]
        (row,) = json.loads(run(*command, "--json"))
        predicted = xai_onnx.load(tiny_explained).predict(photos(3)[0]).target
        assert [e["target"] for e in row["explanations"]] == (expected or [predicted])

    def test_a_plain_classifier_is_explained_in_memory(
        self, run, tmp_path, pictures, labels, tiny_explained
    ):
        plain = saved(tiny_net("Softmax"), tmp_path / "p.onnx")
        before = sorted(tmp_path.iterdir())
        options = ["--preprocess", "unit", "--labels", labels, "--target-layer", "features"]
        options += ["--target", "dog", "--json"]
        command = ["explain", plain, pictures[0], "-o", tmp_path / "o.png", *options]
        (row,) = json.loads(run(*command))
        expected = xai_onnx.load(tiny_explained).explain(photos(3)[0], "dog").to_dict()
        found = row["explanations"][0]
        assert found["label"] == "dog"
        assert found["probability"] == pytest.approx(expected["probability"], rel=1e-5)
        np.testing.assert_allclose(found["cam"], expected["cam"], rtol=1e-4, atol=1e-6)
        assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "o.png"])

    def test_the_score_of_a_plain_classifier_may_be_its_output(self, run, tmp_path, pictures):
        plain = saved(tiny_net("Softmax"), tmp_path / "p.onnx")
        cams = []
        for score in ("logits", "output"):
            options = ["--preprocess", "unit", "--score", score, "--target", "1", "--json"]
            data = json.loads(
                run("explain", plain, pictures[0], "-o", tmp_path / "o.png", *options)
            )
            cams.append(np.array(data[0]["explanations"][0]["cam"]))
        assert not np.allclose(cams[0], cams[1], rtol=1e-2)

    def test_preprocessing_may_be_given_for_an_explained_file(self, run, tiny, tmp_path, pictures):
        out = tmp_path / "explained.onnx"
        run("export", "gradcam", tiny, "-o", out)
        text = run("explain", out, pictures[0], "-o", tmp_path / "o.png", "--preprocess", "unit")
        assert "class " in text

    def test_an_empty_map_and_a_score_without_probability_are_said(self, run, tmp_path, pictures):
        plain = saved(tiny_net(classes=1, gain=0.0), tmp_path / "p.onnx")
        command = ["explain", plain, pictures[0], "-o", tmp_path / "o.png", "--preprocess", "unit"]
        text = run(*command)
        assert "class 0, score " in text
        assert text.rstrip().endswith("no positive evidence")

    @pytest.mark.parametrize("method", [*CAMS, *ATTRIBUTIONS])
    def test_a_plain_classifier_by_any_method(self, run, tiny, tmp_path, pictures, method):
        out = tmp_path / "out.png"
        options = ["--method", method, "--preprocess", "unit", "--top-k", "2", "--json"]
        (row,) = json.loads(run("explain", tiny, pictures[0], "-o", out, *options))
        assert [e["method"] for e in row["explanations"]] == [method] * 2
        assert all((e["cam"] is None) == (method in ATTRIBUTIONS) for e in row["explanations"])
        layers = [] if method in ATTRIBUTIONS else ["features"]
        assert row["explanations"][0]["target_layers"] == layers
        assert is_picture(out)

    def test_several_layers_of_a_plain_classifier(self, run, tiny, tmp_path, pictures):
        options = ["--target-layer", "early", "--target-layer", "features"]
        options += ["--preprocess", "unit", "--json"]
        command = ["explain", tiny, pictures[0], "-o", tmp_path / "o.png", *options]
        (row,) = json.loads(run(*command))
        assert row["explanations"][0]["target_layers"] == ["early", "features"]

    def test_an_explained_file_says_its_method_itself(self, run, tiny, tmp_path, pictures):
        out = tmp_path / "saliency.onnx"
        run("export", "attribution", tiny, "-o", out, "--preprocess", "unit")
        for options in ([], ["--method", "saliency"]):
            text = run("explain", out, pictures[0], "-o", tmp_path / "o.png", *options)
            assert "peak at x " in text

    def test_a_model_of_several_inputs(self, run, tmp_path, pictures):
        """What it takes besides comes from an .npy file, one row for each picture."""
        plain, meta = saved(two_heads(), tmp_path / "p.onnx"), tmp_path / "meta.npy"
        np.save(meta, np.ones((1, 4)))
        options = ["--input", "image", "--score", "main", "--preprocess", "unit", "--json"]
        command = ["explain", plain, pictures[0], "-o", tmp_path / "o.png", *options]
        scores = []
        for factor in (1, 5):
            np.save(meta, np.full((1, 4), factor))
            (row,) = json.loads(run(*command, "--target", "1", "--with", f"meta={meta}"))
            scores.append(row["explanations"][0]["score"])
        assert scores[0] != pytest.approx(scores[1])

    def test_a_region(self, run, tmp_path, pictures):
        plain, mask = saved(segmentation_net(), tmp_path / "p.onnx"), tmp_path / "mask.npy"
        np.save(mask, np.eye(32, dtype=np.uint8)[None, None])
        options = ["--score", "region", "--target-layer", "features", "--preprocess", "unit"]
        options += ["--with", f"mask={mask}", "--top-k", "2", "--json"]
        (row,) = json.loads(run("explain", plain, pictures[0], "-o", tmp_path / "o.png", *options))
        assert [e["probability"] for e in row["explanations"]] == [None, None]
        assert is_picture(tmp_path / "o.png")


class TestVerify:
    def test_a_good_file(self, run, tiny_explained, tiny):
        checks = json.loads(run("verify", tiny_explained, tiny, "--json"))
        assert [check["check"] for check in checks] == [
            "original outputs",
            "gradient",
            "cam",
            "saliency_map",
            "one by one",
        ]
        assert all(check["passed"] for check in checks)
        assert checks[0]["error"] == 0
        assert checks[0]["detail"] == "bit-identical"
        lines = run("verify", tiny_explained, tiny).splitlines()
        assert all(line.startswith("ok ") for line in lines)

    def test_a_changed_weight(self, run, tiny_explained, tiny, tmp_path):
        changed = saved(scaled(tiny_explained, "w3", 1.01), tmp_path / "changed.onnx")
        text = run("verify", changed, tiny, code=1)
        assert text.startswith("FAILED  original outputs")
        assert "not bit-identical" in text

    def test_a_changed_constant_of_the_explanation(self, run, tiny_explained, tiny, tmp_path):
        """Each matrix; a scalar may be a bound that nothing reaches."""
        constants = [
            tensor.name
            for tensor in onnx.load(tiny_explained).graph.initializer
            if tensor.name.startswith("xai_onnx/") and len(tensor.dims) > 1
        ]
        assert len(constants) == 4, "rows and columns of the resize, and of its extremes"
        for name in constants:
            changed = saved(scaled(tiny_explained, name, 1.01), tmp_path / "changed.onnx")
            assert "FAILED" in run("verify", changed, tiny, code=1), name


def scaled(path, name, factor):
    """The model, one initializer multiplied and shifted."""
    net = onnx.load(path)
    (tensor,) = [tensor for tensor in net.graph.initializer if tensor.name == name]
    array = onnx.numpy_helper.to_array(tensor)
    changed = (array * factor + 0.001).astype(array.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, name))
    return net


class TestBench:
    QUICK = ("--rounds", "2", "--seconds", "0.001")

    def test_json(self, run, tiny):
        data = json.loads(run("bench", tiny, "--rounds", "2", "--seconds", "0.01", "--json"))
        assert data["model"] == tiny
        assert {"processor", "cores", "onnxruntime"} <= set(data["environment"])
        assert [(row["batch"], row["threads"]) for row in data["results"]] == [(1, 0), (8, 0)]
        for row in data["results"]:
            assert list(row["sides"]) == ["plain", "twin", "explained", "explained, K = 0"]
            for name, side in row["sides"].items():
                assert side["images_per_second"] == pytest.approx(
                    1000 * row["batch"] / side["median_ms"]
                )
                assert side["p50_ms"] <= side["p95_ms"] <= side["p99_ms"]
                low, high = side["ratio_quartiles"]
                assert low <= side["ratio"] <= high
                assert name != "plain" or side["ratio"] == 1

    def test_text(self, run, tiny):
        text = run("bench", tiny, *self.QUICK, "--batch", "2", "--threads", "1,0")
        assert f"{tiny}, batch 2, threads 1" in text
        assert f"{tiny}, batch 2, threads all" in text
        assert text.count("explained, K = 0") == 2

    @pytest.mark.parametrize("options", [{"layout": "NHWC"}, {"size": "side"}, {"dtype": "uint8"}])
    def test_other_inputs(self, run, tmp_path, options):
        path = saved(tiny_net(**options), tmp_path / "m.onnx")
        data = json.loads(run("bench", path, *self.QUICK, "--batch", "1", "--json"))
        assert len(data["results"]) == 1

    def test_a_fixed_batch_is_measured_as_it_is(self, run, tmp_path):
        """Asked for 1 and 8, a model of batch 2 runs two images: once, and counted as two."""
        path = saved(tiny_net(batch=2), tmp_path / "m.onnx")
        data = json.loads(run("bench", path, *self.QUICK, "--json"))
        assert [row["batch"] for row in data["results"]] == [2]


class TestWarmup:
    def test_json(self, run):
        data = json.loads(run("warmup", "--json"))
        assert {"compose.compose", "quickshift.add_densities"} <= set(data["seconds"])
        assert data["total"] == pytest.approx(sum(data["seconds"].values()))
        assert os.path.isdir(data["cache"])

    def test_text(self, run):
        lines = run("warmup").splitlines()
        assert lines[0].split() == ["kernel", "s"]
        assert lines[-2].startswith("all ")
        assert lines[-1].startswith("kept in ")

    def test_without_a_cache_it_says_so(self, run, monkeypatch):
        monkeypatch.setattr("xai_onnx.lime.kernels.jit.cache_folder", lambda: None)
        assert run("warmup").splitlines()[-1].startswith("not kept: no folder can be written")


CAM = ("export", "gradcam", "m", "-o", "o")
ATTRIBUTION = ("export", "attribution", "m", "-o", "o")
HELP = [*([command] for command in COMMANDS), ["export", "gradcam"], ["export", "attribution"], []]


class TestProgram:
    @pytest.mark.parametrize("command", HELP)
    def test_help(self, capsys, command):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: {' '.join(['xai-onnx', *command])} ")
        for name in COMMANDS if not command else ():
            assert name in text

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"xai-onnx {xai_onnx.__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "xai-onnx: error: the following arguments are required: COMMAND; see xai-onnx"),
            (["fly"], "xai-onnx: error: argument COMMAND: invalid choice: 'fly'"),
            (["inspect"], "xai-onnx inspect: error: the following arguments are required: MODEL"),
            (["bench", "m", "--rounds", "x"], "xai-onnx bench: error: argument --rounds: invalid"),
            (["explain", "m", "i", "-o", "o", "--target", "1", "--top-k", "1"], "not allowed with"),
            (
                ["explain", "m", "i", "-o", "o", "--method", "magic"],
                "--method: invalid choice",
            ),
            ([*CAM, "--method", "magic"], "--method: invalid choice: 'magic'"),
            ([*CAM, "--method", "saliency"], "--method: invalid choice: 'saliency'"),
            ([*ATTRIBUTION, "--method", "gradcam"], "--method: invalid choice: 'gradcam'"),
            ([*ATTRIBUTION, "--target-layer", "x"], "unrecognized arguments: --target-layer x"),
            ([*ATTRIBUTION, "--targets", "all"], "--targets: invalid choice: 'all'"),
        ],
    )
    def test_wrong_usage_is_one_line(self, capsys, arguments, message):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert message in output.err
        assert output.err.count("\n") == 1

    def test_an_interrupt(self, capsys, monkeypatch, tiny):
        monkeypatch.setattr("xai_onnx.session.Session.__init__", raising(KeyboardInterrupt))
        assert main(["inspect", tiny]) == 130
        assert capsys.readouterr().err == "xai-onnx inspect: interrupted\n"

    def test_memory_that_is_not_there(self, capsys, monkeypatch, tiny):
        monkeypatch.setattr("xai_onnx.session.Session.__init__", raising(MemoryError("8 EiB")))
        assert main(["inspect", tiny]) == 2
        assert capsys.readouterr().err == "xai-onnx inspect: error: out of memory: 8 EiB\n"

    def test_a_reader_that_has_gone(self, capsys, monkeypatch, tiny):
        stdout = sys.stdout
        monkeypatch.setattr(cli.inspect, "say", raising(BrokenPipeError))
        try:
            assert main(["inspect", tiny]) == 0
            assert sys.stdout is not stdout
            assert sys.stdout.name == os.devnull
        finally:
            sys.stdout.close()
            sys.stdout = stdout
        assert capsys.readouterr().err == ""

    def test_a_bar_is_drawn_on_a_terminal_only(self, capsys, monkeypatch, tiny, tiny_explained):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert main(["verify", tiny_explained, tiny]) == 0
        assert "check" in capsys.readouterr().err


def raising(error):
    def call(*_, **__):
        raise error

    return call


def program(*arguments, **options):
    """The installed command in its own process."""
    code = "from xai_onnx.cli import main; raise SystemExit(main())"
    root = Path(xai_onnx.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_end_to_end_in_processes_of_their_own(tmp_path, tiny, tiny_explained):
    """Export, verify, refuse, and a bare ONNX Runtime that runs what was written."""
    out, bad = tmp_path / "out.onnx", tmp_path / "bad.onnx"
    saved(scaled(tiny_explained, "w3", 1.1), bad)
    for arguments, code in [
        (["export", "gradcam", tiny, "-o", out], 0),
        (["verify", out, tiny], 0),
        (["verify", bad, tiny], 1),
        (["verify", bad, tmp_path / "absent.onnx"], 2),
    ]:
        process = program(*arguments)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == code, stderr
        assert (stderr == "") == (code != 2)
        assert (stdout == "") == (code == 2)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    feed = {"image": np.zeros((2, 3, 32, 32), np.float32), "class_index": np.zeros((2, 1), int)}
    assert [array.shape for array in session.run(["cam", "saliency_map"], feed)] == [
        (2, 1, 8, 8),
        (2, 1, 32, 32),
    ]


def test_a_closed_pipe_ends_in_silence(tiny):
    process = program("inspect", tiny, "--json")
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert stderr == ""


def test_the_manifest_is_under_the_documented_key(tiny_explained):
    session = onnxruntime.InferenceSession(tiny_explained, providers=["CPUExecutionProvider"])
    data = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert METADATA_KEY == "xai_onnx"
    assert data["class_index"] == "class_index"

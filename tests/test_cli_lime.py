"""LIME at the command line."""

import json

import pytest
from PIL import Image
from tiny_net import LABELS, photos, saved, tiny_net

from xai_onnx.cli import main


@pytest.fixture
def run(capsys):
    def call(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return call


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for i, photo in enumerate(photos(2)):
        paths.append(tmp_path / f"photo{i}.png")
        Image.fromarray(photo).save(paths[-1])
    return paths


LIME = ["--method", "lime", "--segments", "grid,rows=4,columns=4"]


def test_a_plain_classifier(run, tiny, tmp_path, pictures):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS), encoding="utf-8")
    options = [*LIME, "--preprocess", "unit", "--labels", labels, "--samples", "128", "--json"]
    options += ["--target", "cat", "--target", "0", "--seed", "3"]
    (row,) = json.loads(run("explain", tiny, pictures[0], "-o", tmp_path / "o.png", *options))
    assert [e["label"] for e in row["explanations"]] == ["cat", "ant"]
    for found in row["explanations"]:
        assert found["method"] == "lime"
        assert found["forwards"] == 128
        assert found["seed"] == 3
        assert len(found["coefficients"]) == len(found["standard_errors"]) == 16
    with Image.open(row["picture"]) as picture:
        picture.load()
        assert picture.width > 900
        assert picture.height > 600  # a row for each class


def test_an_explained_file_and_several_pictures(run, tiny_explained, tmp_path, pictures):
    options = [*LIME, "--samples", "128", "--top-k", "2"]
    text = run("explain", tiny_explained, *pictures, "-o", tmp_path / "out", *options)
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{tmp_path}/out/photo0.png  ")
    assert "%, score " in lines[0]
    assert ", largest of 16 superpixels " in lines[0]
    assert " ± " in lines[0]
    assert lines[0].endswith("128 forwards")
    assert (tmp_path / "out" / "photo1.png").exists()


def test_doubts_go_to_standard_error(tiny, tmp_path, pictures, capsys):
    options = [*LIME, "--samples", "20", "--preprocess", "unit", "--score", "probability"]
    command = ["explain", tiny, pictures[0], "-o", tmp_path / "o.png", *options]
    assert main([str(part) for part in command]) == 0
    captured = capsys.readouterr()
    assert "(probability), fidelity" in captured.out
    assert "±" not in captured.out
    (line,) = captured.err.splitlines()
    assert "no error is known of so few forwards" in line
    assert "LimeWarning" not in line


def test_deadline_tol_and_draft(run, tiny, tmp_path, pictures):
    out = tmp_path / "o.png"
    common = ["explain", tiny, pictures[0], "-o", out, *LIME, "--preprocess", "unit"]
    text = run(*common, "--tol", "0.5", "--draft", tiny)
    assert "draft within 0 of 32 pictures, correlation 1.000" in text
    assert "forwards" in run(*common, "--deadline", "0.2")


def test_bad_options(run, tiny, tiny_explained, tmp_path, pictures):
    out = tmp_path / "o.png"
    for model, options, message in (
        (tiny, [*LIME, "--target-layer", "features"], "--target-layer says nothing to LIME"),
        (tiny, [*LIME, "--input", "image"], "--input says nothing to LIME"),
        (tiny, [*LIME, "--samples", "0"], "num_samples must be a whole number from 1 on"),
        (tiny, [*LIME, "--score", "embedding"], "no score 'embedding' to explain; one of logit"),
        (tiny, [*LIME, "--draft", "absent.onnx"], "there is no such file"),
        (tiny, ["--method", "lime", "--segments", "hex"], "segments 'hex': unknown"),
        (tiny, ["--samples", "100"], "--samples is for LIME; say --method lime"),
        (tiny_explained, ["--deadline", "1"], "--deadline is for LIME"),
    ):
        recipe = ["--preprocess", "unit"]
        error = run("explain", model, pictures[0], "-o", out, *recipe, *options, code=2)
        assert message in error
        assert len(error.splitlines()) == 1
    error = run("explain", tiny_explained, pictures[0], "-o", out, *LIME, "--labels", "x", code=2)
    assert "--labels says nothing to LIME here" in error
    assert not out.exists()


def test_bench(run, tmp_path):
    plain = saved(tiny_net(), tmp_path / "p.onnx")
    options = ["--method", "lime", "--samples", "40", "--rounds", "2"]
    data = json.loads(run("bench", plain, *options, "--json"))
    (result,) = data["results"]
    assert result["samples"] == 40
    assert result["best_batch"] in (1, 2, 4, 8, 16, 32)
    assert set(result["sides"]) == {"forwards alone", "lime"}
    assert result["sides"]["lime"]["ratio"] > 0
    text = run("bench", plain, *options)
    assert "40 perturbed pictures" in text
    assert "forwards alone" in text


def test_bench_takes_a_number_of_samples(run, tiny):
    error = run("bench", tiny, "--method", "lime", "--samples", "0", code=2)
    assert "--samples must be 1 or more" in error

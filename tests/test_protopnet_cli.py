"""The commands: from a checkpoint to a report."""

import json

import numpy as np
import onnx
import pytest
import torch
from official_protopnet import BACKBONES, trained
from PIL import Image
from small_protopnet import backbone, projected, smooth_pictures

import exporters
import xai_onnx
from xai_onnx.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "10push0.8.pth"
    torch.save(trained(BACKBONES["vgg"]()), path)
    return path


@pytest.fixture
def explained(tmp_path):
    arrays, training = projected(labels=("a", "b", "c", "d"), preprocess="unit")
    exporters.export_protopnet(arrays, tmp_path / "model.onnx")
    for index, picture in enumerate(training[:2]):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


class TestExport:
    def test_says_what_was_found(self, checkpoint, tmp_path, capsys):
        assert run("export", "protopnet", checkpoint, "-o", tmp_path / "m.onnx") == 0
        said = capsys.readouterr().out
        assert "6 of 1x1 cells, 6 channels; 3 classes" in said
        assert "8x8, receptive field 14 pixels a side" in said
        picture = smooth_pictures(1)[0]
        assert xai_onnx.load(tmp_path / "m.onnx").explain(picture).matches

    def test_json(self, checkpoint, tmp_path, capsys):
        out = tmp_path / "m.onnx"
        (tmp_path / "names.txt").write_text("x\ny\nz")
        labels = ("--labels", tmp_path / "names.txt")
        options = ("--redacted", "--activation-maps", "--top-count", 2, "--familiar", 1.5)
        assert run("export", "protopnet", checkpoint, "-o", out, "--json", *labels, *options) == 0
        data = json.loads(capsys.readouterr().out)
        known = data["prototypes"]
        assert (known["redacted"], known["top_count"], known["familiar"]) == (True, 2, 1.5)
        assert known["activation_maps"] == "activation_maps"
        assert data["labels"] == ["x", "y", "z"]
        assert data["notes"] == []

    def test_another_backbone(self, checkpoint, tmp_path):
        onnx.save(backbone(6), tmp_path / "plain.onnx")
        out = tmp_path / "m.onnx"
        arguments = ("export", "protopnet", checkpoint, "-o", out)
        assert run(*arguments, "--backbone", tmp_path / "plain.onnx") == 0
        assert xai_onnx.load(out).manifest.prototypes.receptive_field.size == 7

    def test_bad_input_is_one_line(self, tmp_path, capsys):
        (tmp_path / "bad.pth").write_bytes(b"nonsense")
        assert run("export", "protopnet", tmp_path / "bad.pth", "-o", tmp_path / "m.onnx") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "is not a file of torch.save" in said
        assert not (tmp_path / "m.onnx").exists()

    def test_nopush(self, checkpoint, tmp_path, capsys):
        early = tmp_path / "10nopush0.6.pth"
        early.write_bytes(checkpoint.read_bytes())
        assert run("export", "protopnet", early, "-o", tmp_path / "m.onnx") == 2
        assert "nopush" in capsys.readouterr().err
        assert run("export", "protopnet", early, "-o", tmp_path / "m.onnx", "--force") == 0


class TestExplain:
    @pytest.mark.parametrize("name", ["report.png", "report.html"])
    def test_one_picture(self, explained, name, capsys):
        place = explained / name
        assert run("explain", explained / "model.onnx", explained / "0.png", "-o", place) == 0
        assert place.stat().st_size > 10_000
        assert "prototype 0 9.2" in capsys.readouterr().out

    def test_several_pictures_and_classes(self, explained, capsys):
        pictures = (explained / "0.png", explained / "1.png")
        out = explained / "out"
        options = ("--top-k", 2, "--json")
        assert run("explain", explained / "model.onnx", *pictures, "-o", out, *options) == 0
        data = json.loads(capsys.readouterr().out)
        assert [len(item["explanations"]) for item in data] == [2, 2]
        assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png"]

    def test_checks(self, explained, capsys):
        arguments = ("explain", explained / "model.onnx", explained / "0.png")
        assert run(*arguments, "-o", explained / "r.png", "--check") == 0
        said = capsys.readouterr().out
        assert "all else covered" in said
        assert "JPEG quality 75" in said
        assert run(*arguments, "-o", explained / "r.png", "--check", "--json") == 0
        (item,) = json.loads(capsys.readouterr().out)
        checks = item["explanations"][0]["checks"]
        assert len(checks["occlusion"]) == len(checks["stability"]) == 5

    def test_checks_are_for_prototypes(self, explained, tiny, tiny_explained, capsys):
        for model in (tiny, tiny_explained):
            arguments = ("explain", model, explained / "0.png", "-o", explained / "r.png")
            assert run(*arguments, "--check") == 2
            assert "--check is for a ProtoPNet" in capsys.readouterr().err

    def test_check_with_lime_is_refused_before_anything_is_written(self, explained, capsys):
        picture = explained / "x.png"
        given = ("explain", explained / "model.onnx", explained / "0.png")
        assert run(*given, "-o", picture, "--method", "lime", "--check") == 2
        assert "--check is for a ProtoPNet" in capsys.readouterr().err
        assert not picture.exists()

    def test_a_page_is_for_prototypes(self, explained, tiny_explained, capsys):
        place = explained / "r.html"
        assert run("explain", tiny_explained, explained / "0.png", "-o", place) == 2
        assert "can't write a picture as '.html'" in capsys.readouterr().err

    def test_another_bank(self, explained, capsys):
        (explained / "model.protobank.safetensors").write_bytes(b"other")
        place = explained / "r.png"
        assert run("explain", explained / "model.onnx", explained / "0.png", "-o", place) == 2
        assert "isn't the bank" in capsys.readouterr().err
        assert not place.exists()


class TestNearest:
    def test_each_prototype_finds_its_own_picture(self, explained, capsys):
        (explained / "below").mkdir()
        (explained / "1.png").rename(explained / "below" / "1.PNG")
        arguments = ("nearest", explained / "model.onnx", explained, "--prototype", 1)
        assert run(*arguments, "--prototype", 0, "--count", 1) == 0
        out, err = capsys.readouterr()
        head, one, zero, last = (line.split() for line in out.splitlines())
        assert head == ["prototype", "of", "similarity", "predicted", "picture"]
        assert (one[0], one[1], one[-1]) == ("1", "a", str(explained / "below" / "1.PNG"))
        assert (zero[0], zero[-1]) == ("0", str(explained / "0.png"))
        assert float(one[2]) > 9.2
        assert last[-3:] == [f"{sum(row[1] == row[3] for row in (one, zero)) / 2:.0%}", "of", "2"]
        assert err == ""

    def test_json(self, explained, capsys):
        assert run("nearest", explained / "model.onnx", explained, "--json") == 0
        data = json.loads(capsys.readouterr().out)
        assert [len(items) for items in data.values()] == [2] * 12
        assert [items[0]["prototype_class"] for items in data.values()] == sorted([0, 1, 2, 3] * 3)
        for items in data.values():
            assert items[0]["similarity"] >= items[1]["similarity"]

    def test_bad_input_is_one_line(self, explained, tiny_explained, capsys):
        model, empty = explained / "model.onnx", explained / "empty"
        empty.mkdir()
        for arguments, words in [
            ((model, empty), "holds no pictures"),
            ((model, explained / "0.png"), "is no folder"),
            ((model, explained, "--count", 0), "--count must be 1 or more, not 0"),
            ((model, explained, "--prototype", 12), "prototypes are 0 to 11"),
            ((tiny_explained, explained), "the model has no prototypes to search with"),
        ]:
            assert run("nearest", *arguments) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert words in said


def test_inspect(explained, capsys):
    assert run("inspect", explained / "model.onnx", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prototypes"]["count"] == 12
    assert run("inspect", explained / "model.onnx") == 0
    assert "protopnet" in capsys.readouterr().out


def test_arrays_of_ones_own(tmp_path):
    """Any ONNX backbone and prototype arrays, without a checkpoint."""
    arrays, training = projected(preprocess="unit")
    exporters.export_protopnet(arrays, tmp_path / "m.onnx", backbone=backbone())
    found = xai_onnx.load(tmp_path / "m.onnx").explain(training[0])
    assert np.isfinite(found.score)

"""The run time: evidence that adds up, places, sources, and banks that don't belong."""

import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import reference_protopnet as twin
from PIL import Image
from safetensors.numpy import load_file, save
from small_protopnet import SIZE, projected, small_arrays, smooth_pictures
from tiny_net import tensors

import exporters
import xai_onnx
from xai_onnx.errors import (
    ImageError,
    ManifestError,
    MethodError,
    NonFiniteError,
    PrototypeError,
    TargetError,
)
from xai_onnx.prototype_box import enlarged

LABELS = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file, its arrays, and the training pictures of its prototypes."""
    arrays, training = projected(labels=LABELS, preprocess="unit")
    path = tmp_path_factory.mktemp("protopnet") / "model.onnx"
    exporters.export_protopnet(arrays, path, top_count=12)
    return path, arrays, training


@pytest.fixture(scope="module")
def model(made):
    return xai_onnx.load(made[0])


def written(folder, **options):
    arrays, training = projected(preprocess="unit")
    path = folder / "model.onnx"
    exporters.export_protopnet(arrays, path, **options)
    return path, training


class TestEvidence:
    @pytest.mark.parametrize("target", [None, 2, "dog"])
    def test_adds_up_to_the_score(self, model, target):
        for found in model.explain(list(smooth_pictures(6, seed=9)), target):
            scale = float(np.abs(found.evidence).sum())
            assert abs(found.evidence.sum() - found.score) <= 1e-4 * scale
            for shown in (0, 2, 12):
                rows = sum(match.evidence for match in found.matches[:shown])
                own, own_points, other, other_points = found.beyond(shown)
                total = rows + own_points + other_points
                assert total == pytest.approx(found.score, abs=1e-4 * scale)
                assert own + other == 12 - shown
            for match in found.matches:
                assert match.evidence == pytest.approx(match.similarity * match.weight, rel=1e-6)
            points = [match.evidence for match in found.matches]
            assert points == sorted(points, reverse=True)

    def test_of_several_classes(self, model):
        (picture,) = smooth_pictures(1, seed=9)
        several = model.explain(picture, [0, "cat", -1])
        for found, target in zip(several, [0, 2, None], strict=True):
            alone = model.explain(picture, target)
            assert found.target == alone.target
            np.testing.assert_array_equal(found.evidence, alone.evidence)
            assert found.to_dict() == alone.to_dict()

    def test_a_batch_is_its_pictures(self, model):
        pictures = list(smooth_pictures(20, seed=4))
        for picture, found in zip(pictures, model.explain(pictures), strict=True):
            alone = model.explain(picture)
            assert found.target == alone.target
            np.testing.assert_allclose(found.similarities, alone.similarities, rtol=1e-5)

    def test_predictions_are_the_scores(self, model):
        (picture,) = smooth_pictures(1, seed=9)
        np.testing.assert_array_equal(model.predict(picture).scores, model.explain(picture).scores)

    def test_a_file_for_the_predicted_class(self, tmp_path, model):
        path, _ = written(tmp_path, targets="predicted")
        (picture,) = smooth_pictures(1, seed=9)
        found = xai_onnx.load(path).explain(picture)
        assert found.target == model.predict(picture).target
        with pytest.raises(TargetError, match="explains no class of your choice"):
            xai_onnx.load(path).explain(picture, 1)


class TestMatches:
    def test_a_prototype_finds_its_own_source(self, made, model):
        """F6: same location and box, and the largest similarity there is."""
        _, arrays, training = made
        for j, picture in enumerate(training):
            found = model.explain(picture, int(arrays.prototype_class[j]))
            match = next(m for m in found.matches if m.prototype == j)
            assert match.similarity >= 9.2
            assert match.location == divmod(int(arrays.sources.locations[j]), 8)
            y0, y1, x0, x1 = arrays.sources.boxes[j]
            assert match.box == (x0, y0, x1, y1)
            y0, y1, x0, x1 = arrays.sources.receptive_boxes[j]
            assert match.receptive_box == (x0, y0, x1, y1)
            assert match.familiar
            np.testing.assert_allclose(
                match.similarity_map, arrays.sources.self_similarity[j], rtol=2e-3, atol=1e-3
            )

    def test_boxes_are_those_of_the_map(self, model):
        for found in model.explain(list(smooth_pictures(4, seed=9))):
            for match in found.matches:
                y0, y1, x0, x1 = twin.box(enlarged(match.similarity_map, SIZE, SIZE))
                assert match.box == (x0, y0, x1, y1)
                place = np.unravel_index(match.similarity_map.argmax(), (8, 8))
                assert match.location == place
                # One sum of squares, in two orders.
                assert match.similarity == pytest.approx(match.similarity_map.max(), rel=2**-20)

    def test_in_pixels_of_a_larger_picture(self, made):
        """Behind a centre crop: the same places, scaled and moved."""
        recipe = f"unit,size={SIZE},resize={SIZE + 8}"
        model = xai_onnx.load(made[0], preprocess=recipe)
        picture = np.repeat(np.repeat(smooth_pictures(1, size=80)[0], 2, 0), 2, 1)
        found = model.explain(picture)
        left, top, right, bottom = found.box
        assert (left, top, right, bottom) == (16, 16, 144, 144)
        for match in found.matches:
            y0, y1, x0, x1 = twin.box(enlarged(match.similarity_map, SIZE, SIZE))
            expected = (16 + 4 * x0, 16 + 4 * y0, 16 + 4 * x1, 16 + 4 * y1)
            assert match.box == pytest.approx(expected)

    def test_the_source_of_each(self, made, model):
        _, arrays, training = made
        found = model.explain(training[0])
        for match in found.matches:
            j = match.prototype
            assert match.prototype_label == LABELS[arrays.prototype_class[j]]
            assert match.source.image_id == f"train/{j}.png"
            assert match.source.image_sha256 == arrays.sources.image_sha256[j]
            y0, y1, x0, x1 = arrays.sources.boxes[j] / SIZE
            assert match.source.box == (x0, y0, x1, y1)
            stored = np.asarray(Image.open(BytesIO(arrays.sources.pictures[j])))
            np.testing.assert_array_equal(match.source.picture, stored)
            assert match.source.patch.shape[0] == np.ptp(arrays.sources.boxes[j][:2])

    def test_ready_tensors(self, model):
        found = model.explain(tensors(1), preprocessed=True)[0]
        assert found.image is None
        assert found.matches[0].box[2] <= SIZE
        with pytest.raises(ImageError, match="no picture to draw on"):
            found.save("never.png")

    def test_no_familiar_part(self, tmp_path):
        path, training = written(tmp_path, familiar=9.0)
        model = xai_onnx.load(path)
        assert model.explain(training[0]).familiar
        other = model.explain(smooth_pictures(1, seed=77)[0])
        assert not other.familiar
        assert not other.matches[0].familiar
        assert other.summary.endswith("no familiar part")
        assert other.to_dict()["familiar"] is False

    def test_a_constant_picture(self, model):
        found = model.explain(np.full((SIZE, SIZE, 3), 90, np.uint8))
        assert all(0 <= side <= SIZE for match in found.matches for side in match.box)

    def test_json(self, model):
        text = json.dumps(model.explain(smooth_pictures(1)[0]).to_dict())
        assert json.loads(text)["method"] == "protopnet"


class TestSources:
    def test_unknown_ones(self, tmp_path):
        arrays = small_arrays(preprocess="unit")
        exporters.export_protopnet(arrays, tmp_path / "m.onnx")
        found = xai_onnx.load(tmp_path / "m.onnx").explain(smooth_pictures(1)[0])
        source = found.matches[0].source
        assert (source.image_id, source.image_sha256, source.box) == ("", "", None)
        assert (source.patch, source.picture) == (None, None)

    def test_some_unfilled(self, tmp_path):
        arrays, training = projected(preprocess="unit")
        sources = arrays.sources
        for name in ("boxes", "receptive_boxes", "locations"):
            getattr(sources, name)[3] = -1
        ids = tuple("" if j == 3 else name for j, name in enumerate(sources.image_ids))
        patches = tuple(b"" if j == 3 else p for j, p in enumerate(sources.patches))
        changed = replace(sources, image_ids=ids, patches=patches)
        exporters.export_protopnet(replace(arrays, sources=changed), tmp_path / "m.onnx")
        found = xai_onnx.load(tmp_path / "m.onnx").explain(training[3], 1)
        match = next(m for m in found.matches if m.prototype == 3)
        assert (match.source.box, match.source.patch) == (None, None)
        assert match.similarity >= 9.2

    def test_redacted(self, tmp_path):
        path, training = written(tmp_path, redacted=True)
        source = xai_onnx.load(path).explain(training[0]).matches[0].source
        assert (source.patch, source.picture) == (None, None)
        assert source.image_id


class TestBanks:
    def test_of_another_export(self, tmp_path):
        path, training = written(tmp_path)
        bank = tmp_path / "model.protobank.safetensors"
        content = bytearray(bank.read_bytes())
        content[-1] ^= 1
        bank.write_bytes(content)
        with pytest.raises(PrototypeError, match="isn't the bank that the model was exported with"):
            xai_onnx.load(path).explain(training[0])
        assert xai_onnx.load(path).predict(training[0]).scores.shape == (4,)

    def test_missing(self, tmp_path):
        path, training = written(tmp_path)
        bank = tmp_path / "model.protobank.safetensors"
        bank.rename(tmp_path / "elsewhere")
        with pytest.raises(PrototypeError, match=r"can't be read: No such file.*say where"):
            xai_onnx.load(path).explain(training[0])
        found = xai_onnx.load(path, bank=tmp_path / "elsewhere").explain(training[0])
        assert found.matches

    def test_a_model_in_memory(self, tmp_path):
        path, training = written(tmp_path)
        bank = tmp_path / "model.protobank.safetensors"
        assert xai_onnx.load(path.read_bytes(), bank=bank).explain(training[0]).matches

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"weights": None}, "lacks 'weights'"),
            ({"boxes": np.zeros((3, 4), np.int64)}, r"has boxes of int64 \[3, 4\], not"),
            ({"locations": np.zeros(12, np.int32)}, "has locations of int32"),
            ({"prototype_class": np.full(12, 9)}, "classes beyond the model's 4"),
            ({"patches_offsets": np.full((12, 2), 10**9)}, "reach beyond their end"),
            ({"patches": np.zeros(10**5, np.uint8)}, "has a damaged picture"),
            ({"weights": np.ones((4, 12), np.float32)}, "aren't the file's, export both again"),
        ],
    )
    def test_one_that_was_changed_on_both_sides(self, tmp_path, monkeypatch, changes, words):
        """Whoever writes the bank's hash into the model can write any bank."""
        path, training = written(tmp_path)
        bank = tmp_path / "model.protobank.safetensors"
        contents = {**load_file(bank), **changes}
        kept = {name: array for name, array in contents.items() if array is not None}
        bank.write_bytes(save(kept, metadata={"schema_version": "1"}))
        monkeypatch.setattr("xai_onnx.protopnet.bank.Bank._check_hash", lambda *_: None)
        with pytest.raises(PrototypeError, match=words):
            xai_onnx.load(path).explain(training[0])

    @pytest.mark.parametrize("content", [b"", b"no bank", bytes(8), b"\xff" * 64])
    def test_no_bank_at_all(self, tmp_path, monkeypatch, content):
        path, training = written(tmp_path)
        (tmp_path / "model.protobank.safetensors").write_bytes(content)
        monkeypatch.setattr("xai_onnx.protopnet.bank.Bank._check_hash", lambda *_: None)
        with pytest.raises(PrototypeError, match="is damaged"):
            xai_onnx.load(path).explain(training[0])

    def test_of_a_newer_schema(self, tmp_path, monkeypatch):
        path, training = written(tmp_path)
        bank = tmp_path / "model.protobank.safetensors"
        bank.write_bytes(save(load_file(bank), metadata={"schema_version": "2"}))
        monkeypatch.setattr("xai_onnx.protopnet.bank.Bank._check_hash", lambda *_: None)
        with pytest.raises(PrototypeError, match="another schema"):
            xai_onnx.load(path).explain(training[0])


def test_another_method(model):
    with pytest.raises(MethodError, match="was exported for method 'protopnet', not 'gradcam'"):
        model.explain(smooth_pictures(1)[0], method="gradcam")


def test_nan_in_the_scores(tmp_path):
    arrays = small_arrays(preprocess="unit")
    arrays.weights[:] = 3e38
    arrays.prototypes[:] = 1e19
    exporters.export_protopnet(arrays, tmp_path / "m.onnx", familiar=1)
    with pytest.raises((NonFiniteError, PrototypeError)):
        xai_onnx.load(tmp_path / "m.onnx").explain(smooth_pictures(1)[0])


def test_outputs_of_other_shapes(tmp_path, monkeypatch):
    path, training = written(tmp_path)
    model = xai_onnx.load(path)
    known = replace(model.manifest.prototypes, top_count=3)
    monkeypatch.setattr(model._session, "manifest", replace(model.manifest, prototypes=known))
    with pytest.raises(ManifestError, match="top_indices has shape"):
        model.explain(training[0])


def test_where_torch_cannot_be_imported(made, tmp_path):
    """Neither torch nor onnx nor the exporters: a picture and a page are written."""
    path, _, training = made
    Image.fromarray(training[0]).save(tmp_path / "picture.png")
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'exporters', 'numba', 'skimage'):\n"
        "    sys.modules[name] = None\n"
        "import xai_onnx\n"
        f"found = xai_onnx.load({str(path)!r}).explain({str(tmp_path / 'picture.png')!r})\n"
        f"found.save({str(tmp_path / 'report.png')!r})\n"
        f"found.save({str(tmp_path / 'report.html')!r})\n"
        "print(found.summary)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "prototype" in done.stdout
    assert Image.open(tmp_path / "report.png").width == 1240
    assert (tmp_path / "report.html").stat().st_size > 10_000

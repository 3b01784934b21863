"""Occlusion, stability, and the search for a prototype's nearest pictures."""

import numpy as np
import pytest
from PIL import Image
from small_protopnet import SIZE, projected, smooth_pictures

import exporters
import xai_onnx
from xai_onnx.errors import ImageError, MethodError, PreprocessError
from xai_onnx.protopnet import checks
from xai_onnx.protopnet.search import nearest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    arrays, training = projected(preprocess="unit")
    path = tmp_path_factory.mktemp("checks") / "model.onnx"
    exporters.export_protopnet(arrays, path)
    return xai_onnx.load(path), training


class TestOcclusion:
    def test_as_if_covered_by_hand(self, made):
        """The box, and all but it, filled with the mean of what the model sees."""
        model, training = made
        found = model.explain(training[2], 0)
        for item, match in zip(
            checks.occlusion(model, training[2], 0), found.matches, strict=False
        ):
            tensor = training[2].transpose(2, 0, 1)[None].astype(np.float64) / 255
            left, top, right, bottom = (int(side) for side in match.box)
            inside = np.zeros((SIZE, SIZE), bool)
            inside[top:bottom, left:right] = True
            mean = tensor.mean((2, 3), keepdims=True)
            after = [
                model.explain(np.where(hidden, mean, tensor).astype("f4"), 0, preprocessed=True)[0]
                for hidden in (inside, ~inside)
            ]
            expected = [float(e.similarities[match.prototype]) for e in after]
            assert item.prototype == match.prototype
            assert item.similarity == match.similarity
            got = [item.inside_covered, item.outside_covered]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
            assert item.box_share == inside.mean()
            assert item.drop_inside == item.similarity - item.inside_covered

    def test_covering_the_source_destroys_the_match(self, made):
        """A prototype of 7 pixels' field, on its own source."""
        model, training = made
        (item,) = [i for i in checks.occlusion(model, training[0], 0, 10) if i.prototype == 0]
        assert item.similarity >= 9.2
        assert item.drop_inside > 2


class TestStability:
    def test_an_undisturbed_picture_stays(self, made, monkeypatch):
        model, training = made
        monkeypatch.setattr(checks, "_jpeg", lambda pixels, quality: pixels)
        monkeypatch.setattr(checks, "_noisy", lambda pixels, sigma: pixels)
        for item in checks.stability(model, training[0]):
            assert item.same_class
            assert item.similarity_change == pytest.approx(0, abs=1e-5)
            assert (item.moved, item.same_prototypes) == (0, 1)

    def test_more_noise_does_more(self, made):
        model, training = made
        found = {item.disturbance: item for item in checks.stability(model, training[0])}
        assert list(found) == [
            *("JPEG quality 90", "JPEG quality 75", "JPEG quality 50"),
            *("noise 4/255", "noise 8/255"),
        ]
        assert found["noise 4/255"].similarity_change > 0
        changes = [found[f"noise {s}/255"].similarity_change for s in (4, 8)]
        assert changes == sorted(changes)

    def test_the_same_each_time(self, made):
        model, training = made
        first, second = (checks.stability(model, training[0]) for _ in range(2))
        assert [i.to_dict() for i in first] == [i.to_dict() for i in second]

    def test_a_grey_picture(self, made):
        with pytest.raises(ImageError, match="on an RGB picture"):
            checks.stability(made[0], np.zeros((8, 8), np.uint8))


class TestNearest:
    @pytest.fixture
    def folder(self, made, tmp_path):
        for index, picture in enumerate([*made[1], *smooth_pictures(20, seed=8)]):
            (tmp_path / f"{index % 3}").mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / f"{index % 3}" / f"{index:02}.png")
        (tmp_path / "notes.txt").write_text("no picture")
        return tmp_path

    def test_against_a_full_sort(self, made, folder):
        model, _ = made
        paths = sorted(folder.rglob("*.png"))
        done = []
        found = nearest(model, folder, count=4, progress=done.append)
        assert sum(done) == len(paths) == 32
        table = np.stack([model.explain(path).similarities for path in paths])
        for j in range(12):
            order = np.argsort(-table[:, j], kind="stable")[:4]
            assert [n.image for n in found[j]] == [str(paths[i]) for i in order]
            np.testing.assert_allclose([n.similarity for n in found[j]], table[order, j], rtol=1e-5)

    def test_a_prototype_finds_its_source_first(self, made, folder):
        found = nearest(made[0], folder, count=1, prototypes=[5])
        assert list(found) == [5]
        assert found[5][0].image.endswith("05.png")
        assert found[5][0].similarity >= 9.2
        assert found[5][0].to_dict()["location"] == list(found[5][0].location)

    def test_fewer_pictures_than_asked_for(self, made, folder):
        paths = sorted(folder.rglob("*.png"))[:2]
        assert len(nearest(made[0], paths)[0]) == 2

    def test_what_is_refused(self, made, folder, tiny_explained):
        model = made[0]
        with pytest.raises(ImageError, match="is no folder"):
            nearest(model, folder / "none")
        (folder / "empty").mkdir()
        with pytest.raises(ImageError, match="holds no pictures"):
            nearest(model, folder / "empty")
        with pytest.raises(ImageError, match="no pictures to search"):
            nearest(model, [])
        with pytest.raises(MethodError, match="prototypes are 0 to 11"):
            nearest(model, folder, prototypes=[12])
        with pytest.raises(MethodError, match="has no prototypes"):
            nearest(xai_onnx.load(tiny_explained), folder)


def test_without_preprocessing(tmp_path):
    arrays, training = projected()
    exporters.export_protopnet(arrays, tmp_path / "m.onnx")
    with pytest.raises(PreprocessError, match="doesn't say how a picture becomes its input"):
        checks.occlusion(xai_onnx.load(tmp_path / "m.onnx"), training[0])

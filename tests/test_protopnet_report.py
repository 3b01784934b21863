"""The report as picture and as page: what stands in it, and what must not."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from small_protopnet import projected, smooth_pictures

import exporters
import xai_onnx
from xai_onnx.errors import OutputFileError
from xai_onnx.protopnet import saving, wording
from xai_onnx.render import prototype_panels as panels
from xai_onnx.render import prototype_report as report
from xai_onnx.render.prototype_page import page

LABELS = ("ant", "bee", "<b>cat</b>", "dog")


def loaded(folder, **options):
    arrays, training = projected(labels=LABELS, preprocess="unit")
    exporters.export_protopnet(arrays, folder / "model.onnx", **options)
    return xai_onnx.load(folder / "model.onnx"), training


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def found(model):
    return model[0].explain(model[1][0])


class Page(HTMLParser):
    """Tags, their attributes, and the text of a page; fails where tags don't match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.said = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


class TestPage:
    def test_is_whole_and_fetches_nothing(self, found):
        seen = Page(page([found]))
        images = [attributes for tag, attributes in seen.tags if tag == "img"]
        assert len(images) == 1 + 5 * len(found.matches)
        assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
        assert all(image["alt"] for image in images)
        assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "base"}
        assert "http" not in page([found]).replace("</html>", "")
        assert "url(" not in page([found])

    def test_says_every_product(self, found):
        text = " ".join(Page(page([found])).said)
        for match in found.matches:
            assert wording.points(match) in text
        assert wording.total(found, found.matches) in text

    def test_names_are_no_markup(self, model):
        text = page([model[0].explain(model[1][6])])
        assert "<b>cat" not in text
        assert "&lt;b&gt;cat&lt;/b&gt;" in text

    def test_of_several_classes(self, model):
        several = model[0].explain(model[1][0], [0, 3])
        assert [tag for tag, _ in Page(page(several)).tags].count("section") == 2

    def test_of_nothing(self):
        with pytest.raises(ValueError, match="one explanation at least"):
            page([])
        with pytest.raises(ValueError, match="one explanation at least"):
            report.report([])


class TestPicture:
    def test_size_and_rows(self, found):
        drawn = report.report([found])
        assert drawn.dtype == np.uint8
        assert drawn.shape[1:] == (1240, 3)
        frames = (drawn == panels.FRAME).all(2)
        assert frames[:, :60].any()  # the rows' numbers

    def test_a_row_more_is_a_row_higher(self, tmp_path):
        heights = []
        for count in (1, 2, 3, 9):
            model, training = loaded(tmp_path, top_count=count)
            heights.append(len(report.report([model.explain(training[0])])))
        steps = np.diff(heights)
        assert steps[0] == steps[1] > 100
        assert steps[2] == 2 * steps[0]  # five rows at most

    def test_the_longer_the_bar_the_more_points(self, found):
        drawn = report.report([found])
        lengths = []
        for colour in (panels.FOR, panels.AGAINST):
            hits = (drawn[:, 900:] == colour).all(2).sum(1)
            lengths += [int(length) for length in hits if length > 3]
        assert lengths
        assert max(lengths) > 250

    def test_without_pictures(self, tmp_path):
        model, training = loaded(tmp_path, redacted=True)
        redacted = model.explain(training[0])
        assert "not in the prototype bank" in " ".join(Page(page([redacted])).said)
        assert ((report.report([redacted]) == panels.WASH).all(2).sum()) > 100_000

    def test_no_familiar_part_is_said_in_its_colour(self, tmp_path):
        model, _ = loaded(tmp_path, familiar=9.0)
        strange = model.explain(smooth_pictures(1, seed=77)[0])
        assert wording.doubt(strange).startswith("No familiar part: the largest similarity is")
        drawn = report.report([strange])
        assert (drawn[:200] == panels.UNSURE).all(2).any()
        assert 'class="unsure"' in page([strange])

    def test_a_class_that_is_not_the_first_is_said(self, model):
        scores = model[0].predict(model[1][0]).scores
        found = model[0].explain(model[1][0], int(scores.argmin()))
        assert any("The model prefers" in line for line in wording.verdict(found))
        report.report([found])

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "html"])
    def test_is_written(self, found, tmp_path, suffix):
        path = tmp_path / f"report.{suffix}"
        found.save(path)
        if suffix != "html":
            assert Image.open(path).width == 1240
        assert [item.name for item in tmp_path.iterdir()] == [path.name]

    def test_another_suffix(self, found, tmp_path):
        with pytest.raises(OutputFileError, match=r"can't write a picture as '\.txt'"):
            saving.save([found], tmp_path / "report.txt")


class TestPanels:
    def test_the_part_is_what_lies_in_the_box(self, model, found):
        match = found.matches[0]
        left, top, right, bottom = (round(side) for side in match.box)
        drawn = panels.panels(
            found, match, right - left if right - left > bottom - top else bottom - top
        )
        np.testing.assert_array_equal(drawn.part, model[1][0][top:bottom, left:right])

    def test_the_frame_lies_on_the_box(self, found):
        match = found.matches[0]
        drawn = panels.panels(found, match, 320).located
        rows, columns = np.nonzero((drawn == panels.FRAME).all(2))
        expected = np.array(match.box) * 10
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(corners - expected).max() <= 2

    def test_extreme_shapes(self, model):
        for shape in ((4, 300), (300, 4), (1, 1)):
            picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
            report.report([model[0].explain(picture)])

    def test_numbers_do_not_cover_each_other(self, found):
        """All ten at one place: still ten discs."""
        same = replace(found, matches=(found.matches[0],) * 5)
        discs = (panels.numbered(same, 5, 270) == panels.FRAME).all(2).sum()
        one = (panels.numbered(same, 1, 270) == panels.FRAME).all(2).sum()
        assert discs > 4 * one


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.00"), (-0.001, "0.00"), (-1.5, "-1.50")])
def test_numbers(value, text):
    assert wording.number(value) == text


def test_the_sum_names_every_part(model):
    found = model[0].explain(model[1][0], 0)
    own, points_own, other, points_other = found.beyond(1)
    assert (own, other) == (2, 9)
    assert wording.total(found, found.matches[:1]) == (
        f"1 row: {wording.number(found.matches[0].evidence)}   +   "
        f"2 more of ant: {wording.number(points_own)}   +   "
        f"9 of other classes: {wording.number(points_other)}   =   "
        f"score {wording.number(found.score)}"
    )


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        ([8.0, 2.0, 0.08, 0.07, 0.0], 3),  # 1 % is worth a row
        ([8.0, 0.0, 0.0, -0.5], 4),  # so is what speaks against the class, and what lies before it
        ([0.0, 0.0], 2),
        ([-1.0, -2.0], 2),
    ],
)
def test_what_adds_nothing_gets_no_row(found, evidence, told):
    matches = tuple(replace(found.matches[0], evidence=value) for value in evidence)
    assert wording.rows(replace(found, matches=matches)) == matches[:told]

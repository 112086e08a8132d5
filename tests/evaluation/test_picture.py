"""A chart as a file of its own: one well-formed document that draws what the report draws."""

from xml.etree import ElementTree

from realm_train.evaluation.chart import Line, drawing
from realm_train.evaluation.picture import picture

SVG = "{http://www.w3.org/2000/svg}"
LINES = [Line("fresh & new", [(0, 1.0), (10, 0.5)], 1), Line("old", [(0, 1.0), (10, 0.25)], 1, "dashes")]


def test_a_picture_is_one_document_with_the_charts_drawing_and_colours_for_it():
    drawn = picture("A < B", LINES, note="x & y", floor=0)
    root = ElementTree.fromstring(drawn)
    assert drawing(LINES, floor=0) in drawn and root.tag == f"{SVG}svg"
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert texts == ["A < B", "x & y"]
    classes = {name for line in root.iter(f"{SVG}polyline") for name in line.get("class").split()}
    assert classes == {"line", "dashes", "c1"}
    assert all(f".{name}" in root.find(f"{SVG}style").text for name in classes)


def test_nothing_reaches_beyond_the_edges():
    root = ElementTree.fromstring(picture("A", LINES))
    width, height = float(root.get("width")), float(root.get("height"))
    (group,) = root.findall(f"{SVG}g")
    down = float(group.get("transform").removeprefix("translate(0,").removesuffix(")"))
    for text in group.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x")) < width and 0 < float(text.get("y")) + down < height

"""The page: complete, self-contained, the same bytes every time, whatever the user called things; and in a browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
from html.parser import HTMLParser

import pytest
from helpers.browser import Browser, chromium
from helpers.devicefiles import write_device
from helpers.runfolders import layer_names, write_run

from onnxmtl.deploy.html import as_json, html_of, write_html
from onnxmtl.deploy.html.compare_page import write_comparison
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.errors import RunError

SIX = [
    ("segmentation", "segmentation"), ("depth", "depth"), ("normals", "normals"),
    ("keypoints", "keypoints"), ("edges", "edges"), ("class", "classification"),
]  # fmt: skip
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'\x01"


class Reader(HTMLParser):
    """Checks that elements close in order; collects names, attributes and text."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self.attributes, self.text = [], set(), [], []
        self.ids = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("small") / "run")


def test_everything_is_on_the_page(folder):
    run = read_run(folder)
    page = Reader(html_of(run))
    text = "".join(page.text)
    for name in ("delta", "costs", "plane", "sharing", "policy", "correlation", "curves"):
        assert f"figure-{name}" in page.ids
    assert len(page.ids) == len(set(page.ids))
    for task in run.report.tasks:
        assert task.task in text
        for metric in task.metrics:
            assert metric.metric in text
            for value in metric.values.values():
                assert f"{value:.4g}" in text
        for value in task.delta.values():
            assert f"{value:+.1f}%".replace("-", "−") in text
    for costs in run.report.costs.values():
        assert f"{costs.multiply_adds / 1e6:.4g} M" in text
    for words in ("onnxmtl compile net.onnx --tasks seg=segmentation,depth", "params<=0.6x", "seed", "automtl",
                  "the most probable architecture within the budget", "features-found [layer4]", "2026-11-22 07:16:03",
                  "8 random policies", "21 architectures were tried, 6 of them different",
                  "normals (normals, 3 channels)"):  # fmt: skip
        assert words in text, words
    assert "/somewhere" not in text
    links = [value for key, value in page.attributes if key == "href" and value != "data:,"]
    assert links and all(link.removeprefix("#") in page.ids for link in links)


def check_self_contained(page):
    found = Reader(page)
    assert not found.names & {"script", "iframe", "img", "object", "embed", "base", "form"}
    for key, value in found.attributes:
        assert not key.startswith("on"), (key, value)
        assert key not in ("src", "srcset", "action") and not (key == "href" and not value.startswith(("#", "data:,")))
    assert "url(" not in page and "@import" not in page and "http://" not in page and "https://" not in page


def test_metrics_are_shown_with_their_unit(folder):
    run = read_run(folder)
    task = next(task for task in run.report.tasks if task.kind == "depth")
    metrics = (dataclasses.replace(task.metrics[0], unit=f"inverse depth {EVIL}"), *task.metrics[1:])
    tasks = [dataclasses.replace(each, metrics=metrics) if each is task else each for each in run.report.tasks]
    page = html_of(dataclasses.replace(run, report=dataclasses.replace(run.report, tasks=tuple(tasks))))
    check_self_contained(page)
    assert f"{metrics[0].metric} (inverse depth <script>" in "".join(Reader(page).text)


def test_nothing_is_fetched(folder):
    check_self_contained(html_of(read_run(folder)))


def test_a_page_that_fetches_is_noticed():
    with pytest.raises(AssertionError):
        check_self_contained('<html><a href="https://x.org">x</a></html>')
    with pytest.raises(AssertionError):
        check_self_contained("<html><script>1</script></html>")


def test_what_the_user_wrote_stays_text(tmp_path):
    tasks = [(EVIL + "1", "depth"), (EVIL + "2", "segmentation")]
    names = [EVIL + name for name in layer_names(4)]
    record = {
        "data": EVIL,
        "recipe": EVIL,
        "variant": EVIL,
        "budget": EVIL,
        "weighting": EVIL,
        "data_options": {EVIL: EVIL},
    }
    run = read_run(write_run(tmp_path / "run", tasks, 4, names=names, record=record))
    report = dataclasses.replace(run.report, title=EVIL, notes=(EVIL,), decoding=EVIL)
    changed = dataclasses.replace(run, report=report, remarks=(EVIL,))
    page = html_of(changed)
    check_self_contained(page)
    assert "<script>alert(1)" in "".join(Reader(page).text) and "\x01" not in page
    check_self_contained(page)


def test_the_same_run_gives_the_same_bytes(folder, tmp_path):
    first = write_html(folder, tmp_path / "a.html", svg=tmp_path / "a").html.read_bytes()
    assert write_html(folder, tmp_path / "b.html", svg=tmp_path / "b").html.read_bytes() == first
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "moved")
    assert write_html(moved, tmp_path / "c.html").html.read_bytes() == first
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_files(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "run")
    written = write_html(copied)
    assert written.html == copied / "report.html" and written.svg == ()
    again = write_html(copied, svg=tmp_path / "new" / "figures")
    assert sorted(p.name for p in again.svg) == sorted(p.name for p in (tmp_path / "new" / "figures").iterdir())
    assert {p.stem for p in again.svg} == {"delta", "costs", "plane", "sharing", "policy", "correlation", "curves"}
    assert write_html(copied, tmp_path / "deep" / "er" / "page.htm").html.exists()


@pytest.mark.parametrize("name", ["page.txt", "page", "folder.html"])
def test_names_that_are_no_good(folder, tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(RunError, match=r"ends in \.html; choose such a name"):
        write_html(folder, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_a_file_where_the_figures_should_go(folder, tmp_path):
    (tmp_path / "svg").write_text("mine")
    with pytest.raises(RunError, match="cannot write"):
        write_html(folder, tmp_path / "page.html", svg=tmp_path / "svg")
    assert [p.name for p in tmp_path.iterdir()] == ["svg"]


def test_as_json(folder):
    content = as_json(read_run(folder))
    assert content["report"]["delta"]["found"] == read_run(folder).report.delta["found"]
    assert content["correlation"]["seg"]["seg"] == pytest.approx(1)
    assert content["tasks"] == ("seg", "depth", "normals") and len(content["candidates"]) == 6


# In a browser


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("there is no chromium on this machine")
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory, folder):
    where = tmp_path_factory.mktemp("pages")
    eight = [(f"a long name of task {i}", "depth") for i in range(8)]
    names = [f"encoder.stages.{i}.blocks.attention.projection.weight" for i in range(33)]
    runs = {
        "small": folder,
        "big": write_run(where / "big", SIX, 110, steps=400),
        "eight": write_run(where / "eight", eight, 33, options=("select", "skip"), names=names, delta=False),
    }
    shutil.copytree(folder, where / "unfinished")
    (where / "unfinished" / "report.json").unlink()
    runs["unfinished"] = where / "unfinished"
    runs["device"] = write_device(write_run(where / "device", SIX, 8), [name for name, _ in SIX])
    files = {name: write_html(path, where / f"{name}.html").html for name, path in runs.items()}
    files["compared"] = where / "compared.html"
    write_comparison([folder, write_run(where / "other", seed=3)], files["compared"])
    return files


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Figures that were made smaller than they are drawn, and with them their text.
SHRUNK = "[...document.querySelectorAll('svg')].filter(s => s.clientWidth < s.getAttribute('width') - 1).length"
# Text of figures that sticks out of the page.
OUTSIDE = """[...document.querySelectorAll('svg text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < -1 || box.right > innerWidth + 1}).map(t => t.textContent)"""


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["small", "big", "eight", "unfinished", "device", "compared"])
def test_in_a_browser(browser, pages, name, width):
    for dark in (False, True):
        browser.open(pages[name], width, dark=dark)
        assert browser.evaluate("innerWidth") == width
        assert browser.complaints() == []
        assert browser.requests() == [pages[name].as_uri()]
        assert browser.evaluate(OVERFLOW) <= 0
        assert browser.evaluate(SHRUNK) == 0
        assert browser.evaluate(OUTSIDE) == []
    if name in ("small", "big"):
        browser.evaluate("getSelection().selectAllChildren(document.querySelector('#figure-sharing'))")
        assert "stem.conv" in browser.evaluate("getSelection().toString()")


def test_light_and_dark_differ(browser, pages):
    grounds = []
    for dark in (False, True):
        browser.open(pages["small"], 800, dark=dark)
        grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        ink = browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert ink not in grounds
    assert grounds[0] != grounds[1]


def test_figures_open_by_themselves(browser, folder, tmp_path):
    for file in write_html(folder, tmp_path / "page.html", svg=tmp_path / "svg").svg:
        browser.open(file, 1200)
        assert browser.complaints() == [] and browser.requests() == [file.as_uri()]
        assert browser.evaluate("document.documentElement.tagName") == "svg"
        assert browser.evaluate("document.querySelectorAll('text').length") > 5


def test_the_browser_notices_what_is_wrong(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        '<div style="width:900px">wide</div><img src="none.png"><script>console.error("oh")</script>'
    )
    browser.open(page, 360)
    assert browser.evaluate(OVERFLOW) > 0
    assert len(browser.requests()) == 2 and any("oh" in text for text in browser.complaints())


def test_text_of_figures_is_large_enough(folder):
    from onnxmtl.deploy.html.theme import figure_css

    sizes = [float(size) for size in re.findall(r'font-size="([0-9.]+)"', html_of(read_run(folder)))]
    sizes += [float(size) for size in re.findall(r"font-size:([0-9.]+)px", figure_css())]
    assert sizes and min(sizes) >= 9.5

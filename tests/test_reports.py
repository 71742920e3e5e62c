"""Every report is one page that shows its pictures and loads nothing; the browser sees it when it does not."""

import base64
import html
import io

import pytest
from browser import assert_self_contained, find_browser, look_at
from conftest import ROOT
from matplotlib.figure import Figure


@pytest.fixture(scope="module")
def look():
    """The two shared functions that make reports."""
    names = {"base64": base64, "html": html, "io": io, "Figure": Figure}
    exec((ROOT / "templates" / "shared" / "html_report.py").read_text(), names)
    return names


def test_a_report_has_its_pictures_and_escapes_what_it_shows(look, tmp_path):
    figure, axes = look["chart"]("Rewards <of> both", "reward", "answers")
    axes.hist([1, 2, 2, 3])
    axes.set_yticks([0, 1], ["cost in $", "a$_{b$"])  # names are no formulas
    half = "half a character \ud83d"
    evil = '<script>document.title = "owned"</script><img src="https://example.com/x.png">'
    table = [{"source": evil, "share": 0.25, "count": 1234567}, {"source": "long" * 200, "share": None, "count": 3}]
    page = tmp_path / "report.html"
    page.write_text(look["html_report"](f"Report {evil}", ["! It matters.", "# Part", half, table, [], figure]))
    seen = assert_self_contained(page, pictures=1)
    assert evil in seen["text"] and evil in seen["title"] and "nothing to show" in seen["text"]
    assert look_at(page, tmp_path / "page.png", width=420)["overflow"] <= 0
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_browser_notices_what_a_report_must_not_do(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><title>bad</title><img alt="gone" src="missing.png"><img src="https://example.com/x.png">'
        '<script>console.error("oh"); nothing.here</script><div style="width:3000px">wide</div>'
    )
    seen = look_at(page)
    assert seen["pictures"] == 0 and seen["broken"] == ["gone", ""] and seen["overflow"] > 1000
    assert [url.rpartition("/")[2] for url in seen["outside"]] == ["missing.png", "x.png"]
    assert "oh" in seen["errors"] and any("nothing is not defined" in error for error in seen["errors"])


def test_without_a_browser_the_test_fails_with_what_installs_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AssertionError, match="apt-get install -y chromium"):
        find_browser()

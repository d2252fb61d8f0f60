"""report.html in a real browser: it fits, it sorts, it asks for nothing."""

import json

import pytest

from unmask.cli.main import main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a decoder and of itself made bidirectional."""
    folder = tmp_path_factory.mktemp("report")
    assert main(["analyze", "pocket", "--out", str(folder), "--dtype", "float32"]) == 0
    return folder / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_fits_and_asks_for_nothing(browser, report, tmp_path, scheme, width, height):
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert not errors
    shot = tmp_path / "page.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    inner = page.evaluate("document.documentElement.scrollWidth")
    assert inner <= width
    too_wide = page.evaluate(
        """[...document.querySelectorAll('h1, h2, p, figure, .scroll')]
           .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []
    assert page.locator("svg").count() >= 3
    # plots are as large as people can read; where that is wider than the page they scroll in their own frame
    scale = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg')]"
        ".map(e => e.getBoundingClientRect().width / e.viewBox.baseVal.width))"
    )
    assert scale > 0.9
    ground, ink = page.evaluate(
        "(() => { const s = getComputedStyle(document.body); return [getComputedStyle(document.documentElement)"
        ".colorScheme, s.color]; })()"
    )
    assert ground == "light dark"
    assert ink == ("rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)")
    page.close()


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_the_table(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    heading = page.locator("th", has_text="anisotropy").first
    column = heading.evaluate("cell => cell.cellIndex")

    def values():
        cells = heading.evaluate(
            "(cell, at) => [...cell.closest('table').tBodies[0].rows].map(r => Number(r.cells[at].dataset.value))",
            column,
        )
        return cells

    assert len(values()) == 2
    heading.locator("button").click()
    assert values() == sorted(values(), reverse=True)
    heading.locator("button").click()
    assert values() == sorted(values())
    page.close()


def test_what_the_page_shows_is_also_there_for_programs(report):
    found = json.loads((report.parent / "analysis.json").read_text())
    assert found["future_tokens"]["Uni"]["auc"] == 0.5
    assert len(found["layers"]["Bi"]["cosines"]) == 7
    assert found["geometry"]["Bi"]["anisotropy"] < found["geometry"]["Uni"]["anisotropy"]


@pytest.mark.slow
def test_negative_and_missing_figures_and_names_sort_too(browser, tmp_path):
    from unmask.analysis.page import plain_table, write_page

    rows = [["b", -0.5], ["d", "–"], ["a", 0.5], ["c", -2.0], ["e", 7.0]]
    write_page(tmp_path / "p.html", title="t", lead="l", table=plain_table(["name", "x"], rows), sections=[])
    page = browser.new_page()
    page.goto((tmp_path / "p.html").as_uri())

    def names_after(heading):
        page.locator("th button", has_text=heading).click()
        return page.locator("td:first-child").all_inner_texts()

    assert names_after("x") == ["e", "a", "b", "c", "d"]
    assert names_after("x") == ["c", "b", "a", "e", "d"]
    assert names_after("x") == ["e", "a", "b", "c", "d"]
    assert names_after("name") == ["a", "b", "c", "d", "e"]
    assert page.locator("th").first.get_attribute("aria-sort") == "ascending"
    assert names_after("name") == ["e", "d", "c", "b", "a"]
    page.close()

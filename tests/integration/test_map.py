"""map.html in a real browser: hover, search, colours, moving; and what `unmask analyze --map` prints."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmask.analysis.map import lay_out
from unmask.cli.main import main

ROWS, HEAPS = 90, 3


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Three heaps, with a text that would be markup if it could."""
    random = np.random.default_rng(0)
    heaps = np.arange(ROWS) % HEAPS
    numbers = (8 * np.eye(HEAPS, 16)[heaps] + random.normal(size=(ROWS, 16))).astype(np.float32)
    texts = [f"text {i} of heap {heap}" for i, heap in enumerate(heaps)]
    texts[7] = "</script><img src=x onerror=alert(1)> & {{ seven }}"
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 16)
    kinds, years = [f"heap {heap}" for heap in heaps], np.arange(ROWS) / 2
    ids = [f"k{i}" for i in range(ROWS)]
    path = tmp_path_factory.mktemp("map") / "my vectors.parquet"
    pq.write_table(pa.table({"id": ids, "text": texts, "kind": kinds, "year": years, "vector": column}), path)
    return path


@pytest.fixture(scope="module")
def drawn(vectors):
    out = vectors.parent / "drawn"
    assert main(["analyze", str(vectors), "--map", "--out", str(out)]) == 0
    return out / "map.html"


@pytest.fixture
def page(browser, drawn):
    opened = browser.new_page(viewport={"width": 1000, "height": 700})
    asked, errors = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("dialog", lambda dialog: errors.append(dialog.message))
    opened.goto(drawn.as_uri())
    yield opened
    assert asked == [drawn.as_uri()]
    assert not errors
    opened.close()


def place(page, row):
    """Where a row is drawn, in the window."""
    x, y = page.evaluate("project", row)
    box = page.locator("canvas").bounding_box()
    return box["x"] + x, box["y"] + y


def colour(page, row):
    """Of the pixel in the middle of a row."""
    x, y = page.evaluate("project", row)
    return page.evaluate(
        "([x, y]) => [...document.querySelector('canvas').getContext('2d').getImageData(x * devicePixelRatio, "
        "y * devicePixelRatio, 1, 1).data].slice(0, 3)",
        [x, y],
    )


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_rows_of_one_heap_lie_together(method):
    random = np.random.default_rng(0)
    heaps = np.arange(120) % 4
    numbers = (8 * np.eye(4, 24)[heaps] + random.normal(size=(120, 24))).astype(np.float32)
    numbers *= random.uniform(0.1, 10, size=(120, 1)).astype(np.float32)  # lengths do not count
    points = lay_out(numbers, method)
    assert points.shape == (120, 2)
    assert points.min() >= 0
    assert points.max() == 1
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(120)
    assert np.mean(heaps[apart.argmin(axis=1)] == heaps) > 0.97
    if method == "tsne":
        np.testing.assert_array_equal(points, lay_out(numbers, method))


@pytest.mark.slow
def test_hover_shows_what_is_kept_of_a_row_as_text(page):
    page.mouse.move(*place(page, 7))
    assert page.locator("#hover").is_visible()
    assert page.locator("#hover dt").all_inner_texts() == ["id", "text", "kind", "year"]
    assert page.locator("#hover dd").all_inner_texts() == [
        "k7",
        "</script><img src=x onerror=alert(1)> & {{ seven }}",
        "heap 1",
        "3.5",
    ]
    page.mouse.move(2, 2)
    assert not page.locator("#hover").is_visible()


@pytest.mark.slow
def test_search_counts_what_it_finds_and_only_that_can_be_pointed_at(page):
    assert page.locator("#count").inner_text() == f"{ROWS} of {ROWS}"
    page.fill("#search", "OF HEAP 2")
    assert page.locator("#count").inner_text() == f"30 of {ROWS}"
    page.mouse.move(*place(page, 4))  # of heap 1
    assert not page.locator("#hover").is_visible()
    page.mouse.move(*place(page, 5))
    assert page.locator("#hover").is_visible()
    page.fill("#search", "")
    assert page.locator("#count").inner_text() == f"{ROWS} of {ROWS}"


@pytest.mark.slow
def test_columns_colour_the_points(page):
    assert page.locator("#colour option").all_inner_texts() == ["none", "kind", "year"]
    assert page.locator("#legend li").all_inner_texts() == ["heap 0 (30)", "heap 1 (30)", "heap 2 (30)"]
    assert colour(page, 0) == pytest.approx(colour(page, 3), abs=3) != colour(page, 4)
    page.select_option("#colour", "year")
    assert page.locator("#legend li").all_inner_texts() == ["0", "22.25", "44.5"]
    assert colour(page, 0) != colour(page, 87)
    page.select_option("#colour", "")
    assert page.locator("#legend li").count() == 0
    assert colour(page, 0) == pytest.approx(colour(page, 4), abs=3)


@pytest.mark.slow
def test_the_plane_moves_and_comes_closer(page):
    before = [page.evaluate("project", row) for row in (0, 1)]
    page.mouse.move(500, 400)
    page.mouse.down()
    page.mouse.move(560, 430, steps=3)
    page.mouse.up()
    after = [page.evaluate("project", row) for row in (0, 1)]
    np.testing.assert_allclose(np.subtract(after, before), [[60, 30], [60, 30]], atol=1)

    def apart():
        return float(np.linalg.norm(np.subtract(*(page.evaluate("project", row) for row in (0, 1)))))

    first = apart()
    x, y = place(page, 0)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    page.wait_for_function("view.scale > 2")
    assert apart() == pytest.approx(first * np.e, rel=0.01)
    assert place(page, 0) == pytest.approx((x, y), abs=1)  # what is under the pointer stays there
    page.click("#closer")
    assert apart() == pytest.approx(first * np.e * 1.5, rel=0.01)
    page.click("#all")
    np.testing.assert_allclose([page.evaluate("project", row) for row in (0, 1)], before, atol=1)
    page.focus("canvas")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("project", 0)[0] == pytest.approx(before[0][0] + 40, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_fits(browser, drawn, scheme, width, height):
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(drawn.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    inside = [page.evaluate("project", row) for row in range(ROWS)]
    size = page.evaluate("[plane.clientWidth, plane.clientHeight]")
    assert np.all(np.array(inside) >= 0)
    assert np.all(np.array(inside) <= size)
    assert min(size) > 300
    page.close()


def test_the_command_says_how_embedding_atlas_opens_the_file(vectors, tmp_path, capsys):
    assert main(["analyze", str(vectors), "--map", "--rows", "20", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["embedding_atlas"] == f"uvx embedding-atlas '{vectors}' --vector vector --text text"
    assert (found["rows"], found["of"], found["method"]) == (20, ROWS, "tsne")
    assert f"20 of {ROWS} rows by t-SNE" in (tmp_path / "map.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{vectors}", "--map", "--rows", "4"], "4 vectors make no map"),
        (["{vectors}", "--map", "--pairs", "x.csv"], "leave out pairs"),
        (["{vectors}", "--map", "--pooling", "last"], "leave out pooling"),
        (["pocket", "--rows", "4"], "need --map"),
        (["nowhere.parquet", "--map"], "no such file"),
    ],
)
def test_what_cannot_be_drawn_is_said(vectors, tmp_path, capsys, arguments, said):
    given = [argument.format(vectors=vectors) for argument in arguments]
    assert main(["analyze", *given, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.strip().splitlines()) <= 2
    assert not (tmp_path / "out" / "map.html").exists()

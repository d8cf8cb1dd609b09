"""Pages in a real browser without a head: they draw, filter, sort and light up, in dark and light and on a phone.

Needs the `playwright` package and a Chromium of the system; without them every test here is skipped and says so.
"""

import re
import shutil
from dataclasses import replace

import made_up
import pytest

from pargolf.report.pages.board import board_page
from pargolf.report.pages.run import run_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on the PATH")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    one = made_up.entry()
    by_role = [
        {"role": role, "tensors": 4, "weights": 100_000, "bytes": int(9e5 * share), "bits_per_weight": 5.1}
        for role, share in made_up.ROLES.items()
    ]
    describe = "model.dim = 128\ntrain.optimizer[mlp.*] = " + "Muon(lr=0.04, momentum=0.95) " * 6
    texts = {
        "board": board_page(made_up.entries(), ablations=[made_up.ablation()], audits=made_up.audits()),
        "run": run_page(
            one.result, one.events, by_role=by_role, documents=one.documents, describe=describe, title="house"
        ),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in texts}


@pytest.fixture
def open_page(browser):
    """Open an address; afterwards nothing may have gone wrong or been asked of the network."""
    said, asked, opened = [], [], []

    def opener(address, *, size=DESK, dark=False):
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        opened.append(page)
        return page

    yield opener
    for page in opened:
        page.close()
    assert said == []
    assert all(address.startswith("file:") for address in asked) and len(asked) == len(opened)


@pytest.mark.parametrize("name", ["board", "run"])
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_and_plots_take_its_ink(open_page, pages, name, dark):
    page = open_page(pages[name], dark=dark)
    assert page.locator("svg:visible").count() >= 4
    ground, contrasts = page.evaluate(CONTRAST)
    assert (sum(ground) < 200) == dark
    assert min(contrasts.values()) >= 4.5, contrasts


@pytest.mark.parametrize("name", ["board", "run"])
def test_a_phone_scrolls_down_and_not_aside(open_page, pages, name):
    page = open_page(pages[name], size=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator("figure .wide:visible").count() == 0 and page.locator("figure .narrow:visible").count() >= 3
    wider = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
    outside = page.evaluate(wider + " && !e.closest('.scroll, pre, svg')).map(e => e.outerHTML.slice(0, 80))")
    assert outside == []


@pytest.mark.parametrize("width", [1024, 1280, 1600])
def test_the_table_of_runs_is_not_cut(open_page, pages, width):
    page = open_page(pages["board"], size={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.evaluate(cut) == 0


def test_a_filter_hides_runs_in_the_table_and_in_every_plot(open_page, pages):
    page = open_page(pages["board"])
    rows, dots = page.locator("#runs tbody tr:visible"), page.locator(".wide svg [data-runs]:visible")
    assert rows.count() == 15
    before = dots.count()
    page.fill("#filter", "PR549 314")
    assert rows.count() == 1 and "pr549" in rows.first.inner_text()
    assert page.inner_text("#count") == "1 of 15"
    run = rows.first.get_attribute("data-run")
    assert 0 < dots.count() < before
    assert all(run in dots.nth(i).get_attribute("data-runs").split() for i in range(dots.count()))
    assert page.locator(".split:visible").count() == 1
    page.fill("#filter", "no such run")
    assert rows.count() == 0 and dots.count() == 0
    page.fill("#filter", "")
    assert rows.count() == 15 and dots.count() == before


def test_many_runs_are_shown_a_page_at_a_time(open_page, tmp_path):
    bare = [replace(entry, events=(), documents=()) for entry in made_up.entries()]
    many = [replace(entry, path=f"{entry.path}/{i}") for i in range(14) for entry in bare]
    (tmp_path / "many.html").write_text(board_page(many), encoding="utf-8")
    page = open_page((tmp_path / "many.html").as_uri())
    rows, pager = page.locator("#runs tbody tr:visible"), page.locator("#pager")
    assert rows.count() == 200 and pager.locator("output").inner_text() == "1 to 200 of 210"
    pager.get_by_text("Next").click()
    assert rows.count() == 10 and pager.locator("output").inner_text() == "201 to 210 of 210"
    page.locator("#runs thead button").first.click()  # sorted anew, from the first page
    assert rows.count() == 200
    page.fill("#filter", "baseline")
    assert rows.count() == 42 and not pager.is_visible() and page.inner_text("#count") == "42 of 210"


def test_every_column_sorts_both_ways(open_page, pages):
    page = open_page(pages["board"])
    read = """([at, text]) => [...document.querySelectorAll("#runs tbody tr")].map(row => {
        const cell = row.cells[at]; return text ? cell.dataset.value ?? cell.textContent : Number(cell.dataset.value);
    })"""
    heads = page.locator("#runs thead th")
    assert heads.count() == 12
    for at in range(heads.count()):
        text = "text" in (heads.nth(at).get_attribute("class") or "")
        for order in ("ascending", "descending"):
            if heads.nth(at).get_attribute("aria-sort") == order:
                continue
            heads.nth(at).locator("button").click()
            assert heads.nth(at).get_attribute("aria-sort") == order
            values = page.evaluate(read, [at, text])
            natural = [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", f"{v}")] for v in values]
            assert (natural if text else values) == sorted(natural if text else values, reverse=order == "descending")
        assert page.locator("#runs th[aria-sort]").count() == 1


def test_a_row_lights_up_its_run_in_the_plots(open_page, pages):
    page = open_page(pages["board"])
    row = page.locator("#runs tbody tr").nth(4)
    row.hover()
    hot = page.locator("svg [data-runs].hot")
    run = row.get_attribute("data-run")
    assert hot.count() >= 4 and page.locator("svg.lit").count() >= 3
    assert all(run in hot.nth(i).get_attribute("data-runs").split() for i in range(hot.count()))
    page.mouse.move(1, 1)
    assert hot.count() == 0 and page.locator("svg.lit").count() == 0


def test_hostile_names_are_shown_and_not_obeyed(open_page, tmp_path):
    name = "</title></script><script>document.title='taken'</script>\"' onload=x <b>"
    runs = [made_up.entry(name, seed) for seed in (1, 2)] + [made_up.entry("baseline", 1)]
    path = tmp_path / "board.html"
    path.write_text(board_page(runs, title=name), encoding="utf-8")
    page = open_page(path.as_uri())
    assert page.title() == name and page.locator("h1").inner_text() == name
    assert page.locator("main script, main b script").count() == 0
    page.fill("#filter", "onload")
    assert page.locator("#runs tbody tr:visible").count() == 2


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgb = (colour, ground) => {
    canvas.fillStyle = `rgb(${ground})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colour => colour.map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = rgb(getComputedStyle(document.body).backgroundColor, "255,255,255"), found = {};
  const words = "h1, h2, p, li, th, td, a, dd, dt, small, summary, code, figure svg text";
  for (const thing of document.querySelectorAll(words)) {
    if (!thing.textContent.trim() || !thing.getClientRects().length) continue;
    const style = getComputedStyle(thing), ink = rgb(thing.closest("svg") ? style.fill : style.color, ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const key = thing.tagName + "." + (thing.className.baseVal ?? thing.className) + " " + ink;
    found[key] = (a + .05) / (b + .05);
  }
  return [ground, found];
}"""

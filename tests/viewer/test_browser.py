"""What a person does, in a real browser: Debian's chromium, headless, against `bluemask browse` itself."""

import json
import math
import re
import shutil
import sqlite3
import time
import urllib.request

import numpy as np
import pytest
from marking import mark

from storage.store import Store
from tasks.palette import colour

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run")  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")
PIXELS = """image => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let n = 0; n < data.length; n += 4) seen.add((data[n] << 24) | (data[n + 1] << 16) | (data[n + 2] << 8) | data[n + 3]);
  return [canvas.width, canvas.height, seen.size];
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield made
        made.close()


@pytest.fixture
def page(browser, served):
    """A page of the site; at its end nothing was asked for elsewhere, and the console said nothing."""
    address, store = served
    # in this order: a copy without its review would be a review that was lost
    for folder in ("copies/reviews", "reviews"):
        shutil.rmtree(store / folder, ignore_errors=True)
    (store / "reviews").mkdir()  # with another time than it ever had, so that the next look sees it
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    asked, said = [], []
    context.on("request", lambda request: asked.append(request.url))
    opened.on(
        "console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.base = address.rstrip("/")
    wait_for_store(opened.base)
    opened.goto(address)
    yield opened
    context.close()
    assert not [url for url in asked if not url.startswith((address, "blob:", "data:"))]
    assert not said


def wait_for_store(base):
    """Until every image is there, with its figures, and no review is left of another test."""
    for _ in range(1200):
        pulse = json.loads(fetched(base + "/api/pulse"))
        if (
            pulse["count"]
            and not pulse["doing"]
            and '<h1 id="count">0 images' in fetched(base + "/?review=any")
        ):
            return
        time.sleep(0.1)
    pytest.fail(f"the store was not read: {pulse}")


def fetched(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def until(page, expression):
    """Wait until an expression is true; the page's own policy forbids what Playwright would do for that."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never came true: {expression}")


def names(page):
    return page.locator(".card .file").all_inner_texts()


def open_first(page, query=""):
    page.goto(page.base + "/" + query)
    page.locator(".card a").first.click()
    page.wait_for_selector("#strip .panel")
    page.wait_for_load_state("networkidle")


def test_overview_filter_sort_and_keys(page):
    assert page.locator(".card").count() == 8
    until(page, "[...document.querySelectorAll('.thumb img')].every(i => i.complete && i.naturalWidth)")
    for image in page.locator(".thumb img").all():
        assert image.get_attribute("alt")
        assert image.evaluate(PIXELS)[2] > 20
    by_doubt = names(page)
    page.select_option("#sort", "name")
    page.wait_for_url("**sort=name**")
    assert names(page) == sorted(by_doubt)
    page.keyboard.press("3")  # the third class
    page.wait_for_url("**label=scratch**")
    assert all("scratch" in text for text in page.locator(".card .chips").all_inner_texts())
    page.keyboard.press("3")
    page.wait_for_url(lambda url: "label" not in url)
    page.keyboard.press("/")
    page.keyboard.type("<SCRIPT>")
    page.keyboard.press("Enter")
    page.wait_for_url("**name=**")
    assert page.locator(".card").count() == 1
    assert "<script>" in names(page)[0]


def test_walking_judging_and_coming_back(page):
    page.keyboard.press("j")
    page.keyboard.press("j")
    chosen = page.locator(".card.on").get_attribute("data-id")
    page.keyboard.press("a")
    page.wait_for_selector(f'.card[data-id="{chosen}"] .badge.accept')
    page.reload()
    assert page.locator(f'.card[data-id="{chosen}"] .badge.accept').count() == 1
    page.keyboard.press("u")  # only what is not reviewed
    page.wait_for_url("**review=none**")
    assert page.locator(".card").count() == 7
    page.keyboard.press("j")
    opened = page.locator(".card.on").get_attribute("data-id")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/image/{opened}?**")
    page.keyboard.press("j")
    page.wait_for_url(lambda url: "/image/" in url and f"/image/{opened}" not in url)
    page.keyboard.press("u")
    page.wait_for_url(re.compile(r"/\?review=none$"))


def test_every_panel_is_drawn_and_not_blank(page):
    open_first(page, "?label=blob&sort=name")
    until(page, "[...document.querySelectorAll('.panel img')].every(i => i.complete && i.naturalWidth)")
    panels = page.locator(".panel")
    titles = panels.locator("figcaption b").all_inner_texts()
    assert titles[:3] == ["Image", "View 1", "back in place"]
    assert titles[9:] == [
        "Mean",
        "Entropy",
        "Objectness",
        "CAM",
        "Prompts",
        "P1",
        "P2",
        "P",
        "Confidence",
        "Ground truth",
    ]
    for panel in panels.all():
        ground = panel.locator("img.under").evaluate(PIXELS)
        assert ground[0] * ground[1] > 500
        assert ground[2] > 20, panel.get_attribute("data-name")
        name = panel.get_attribute("data-name")
        if name in ("mean", "cam", "confidence", "truth", "view-0"):
            assert panel.locator("img.over").evaluate(PIXELS)[2] > 1, name
        assert panel.locator("img[alt]:not([alt=''])").count() == 1
    assert page.locator(".marks circle").count() > 3


def test_one_zoom_for_all_panels_and_values_under_the_pointer(page):
    open_first(page, "?label=blob&sort=name")
    before = [w.evaluate("e => e.style.transform") for w in page.locator(".world").all()]
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    after = [w.evaluate("e => e.style.transform") for w in page.locator(".world").all()]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert page.locator("#zoom").inner_text() == "1.5×"
    page.keyboard.press("0")
    assert [w.evaluate("e => e.style.transform") for w in page.locator(".world").all()] == before
    page.locator('.panel[data-name="p"] .frame').hover()
    until(page, "document.getElementById('under').innerText.includes('entropy')")
    assert (
        page.locator(".cross").evaluate_all("all => all.filter(c => c.style.display === 'block').length") > 10
    )
    page.keyboard.press("o")
    assert page.locator("#strip").evaluate("e => e.style.getPropertyValue('--over')") == "0"


def test_a_place_that_is_held_tells_class_and_confidence_beside_it(page):
    open_first(page, "?label=blob&sort=name")
    image = re.search(r"/image/(\d+)", page.url).group(1)
    classes = json.loads(page.locator("#data").text_content())["classes"]

    def told():
        """What stands beside the cross, once it is what the arrays hold there: x and y."""
        x, y = map(int, re.search(r"(\d+), (\d+)$", page.locator(".tip").inner_text()).groups())
        value = json.loads(fetched(f"{page.base}/api/value/{image}?x={x}&y={y}"))
        name = ["background", *classes][value["class"]]
        sure = 100 * value["confidence"]
        words = "> 99" if 99.5 < sure < 100 else "< 1" if 0 < sure < 0.5 else str(math.floor(sure + 0.5))
        assert page.locator(".tip").inner_text() == f"{name}, {words} % · {x}, {y}"
        return x, y

    page.locator('.panel[data-name="p"] .frame').click(position={"x": 60, "y": 70})
    until(page, "!document.querySelector('.tip')?.hidden && document.querySelector('.tip')?.innerText")
    page.mouse.move(2, 2)
    clicked = told()
    page.locator('.panel[data-name="mean"] .frame').hover()
    page.wait_for_timeout(500)
    assert told() == clicked, "what is held does not follow the pointer"
    page.keyboard.press("Escape")
    until(page, "document.querySelector('.tip').hidden")
    page.mouse.move(2, 2)
    page.keyboard.press("v")
    until(page, "!document.querySelector('.tip').hidden")
    held = told()
    assert page.locator("#under").get_attribute("aria-live") == "polite"
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowUp")
    until(page, f"document.querySelector('.tip').innerText.endsWith('{held[0] - 10}, {held[1] - 1}')")
    told()
    page.keyboard.press("e")
    page.wait_for_selector("#editor[open]")
    page.keyboard.press("ArrowDown")
    until(page, "/^\\d+, \\d+: .+, .+ %$/.test(document.getElementById('edit-under').innerText)")


def test_what_is_told_at_the_pointer_lies_in_the_window_and_moves_nothing(page):
    open_first(page, "?label=blob&sort=name")
    frame = page.locator('.panel[data-name="image"] .frame')
    before = frame.bounding_box()
    places = [(0.02, 0.3), (0.5, 0.5), (0.55, 0.5), (0.98, 0.7)]
    for across, down in places:
        page.mouse.move(before["x"] + across * before["width"], before["y"] + down * before["height"])
        until(page, "!document.querySelector('.tip')?.hidden && document.querySelector('.tip')?.innerText")
        page.wait_for_timeout(300)
        tip = page.locator(".tip").bounding_box()
        assert tip["x"] >= 0
        assert tip["x"] + tip["width"] <= 1280
        assert frame.bounding_box() == before, "the picture stays under the pointer"
    said = page.locator(".tip").inner_text()
    page.keyboard.press("v")
    page.mouse.move(2, 2)
    page.wait_for_timeout(300)
    assert page.locator(".tip").inner_text() == said, "v holds the place that is pointed at"


def test_a_review_is_kept_after_a_reload_and_can_be_taken_back(page):
    open_first(page)
    page.keyboard.press("n")
    page.keyboard.type("a scratch is missing")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Noted")
    page.keyboard.press("c")
    page.wait_for_selector("#verdict.correct")
    page.reload()
    assert page.locator("#verdict").inner_text() == "Needs correction"
    assert page.locator("#note").input_value() == "a scratch is missing"
    page.keyboard.press("z")
    page.wait_for_selector("#verdict.none", state="attached")


def test_correction_by_a_click_that_goes_to_sam(page):
    open_first(page, "?label=blob&sort=name")
    page.keyboard.press("e")
    page.wait_for_selector("#editor[open]")
    page.keyboard.press("s")
    page.locator("#proposal").click(position={"x": 200, "y": 200})
    page.wait_for_selector("#editor[data-answered]")
    assert re.search(r"SAM answered in \d+ ms", page.locator("#hint").inner_text())
    page.keyboard.press("f")
    page.keyboard.press("Enter")
    page.wait_for_selector('.panel[data-name="correction"]')
    until(page, "document.querySelector('[data-name=correction] img.over')?.naturalWidth")
    assert page.locator('[data-name="correction"] img.over').evaluate(PIXELS)[2] > 1
    assert page.locator("#verdict").inner_text() == "Accepted"
    page.locator('.panel[data-name="correction"] .frame').hover()
    until(page, "/drawn by hand · /.test(document.querySelector('.tip')?.innerText)")
    page.goto(page.base + "/?review=corrected")
    assert page.locator(".card").count() == 1, "at once, not after the next look at the store"


def test_correction_by_keys_alone(page):
    open_first(page, "?label=blob&sort=name")
    image = re.search(r"/image/(\d+)", page.url).group(1)
    page.keyboard.press("e")
    page.wait_for_selector("#editor[open]")
    for key in ("3", "]", "]", *["Shift+ArrowLeft"] * 2, "Space", "ArrowDown", "Space", "x", "b", "Space"):
        page.keyboard.press(key)
    page.keyboard.press("z")
    page.keyboard.press("Enter")
    page.wait_for_selector('.panel[data-name="correction"]')
    classes = page.evaluate(
        """async id => {
          const body = await (await fetch("/api/label/" + id)).arrayBuffer();
          const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream("deflate"));
          return [...new Set(new Uint8Array(await new Response(stream).arrayBuffer()))];
        }""",
        image,
    )
    assert 3 in classes


def test_light_and_dark_and_the_run_page(page):
    ground = "getComputedStyle(document.body.parentElement).backgroundColor"
    first = page.evaluate(ground)
    page.keyboard.press("t")
    assert page.evaluate(ground) != first
    page.goto(page.base + "/run")
    assert page.evaluate(ground) != first  # it is remembered
    assert page.locator(".heat tr").count() == 9
    assert page.locator(".heat td.is-fresh").count() == 18
    assert "broken.png" in page.locator("main").inner_text()
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 1


def test_everything_can_be_reached_without_a_mouse_and_has_a_name(page):
    for path in ("/", "/run", None):
        if path is None:
            open_first(page)
        else:
            page.goto(page.base + path)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a[href], input:not([type=hidden]), select, textarea, img")]
              .filter(e => !e.closest("dialog:not([open])"))
              .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.getAttribute("alt") !== null ||
                (e.labels && e.labels.length))).map(e => e.outerHTML.slice(0, 90))"""
        )
        assert not nameless
        skipped = page.evaluate(
            """() => [...document.querySelectorAll("[tabindex]")].filter(e => e.tabIndex > 0).length"""
        )
        assert skipped == 0


def test_marks_by_hand_are_drawn_and_are_no_dots(page, served):
    """The last one here: a block of the store is other than its run left it."""
    open_first(page, "?label=blob&sort=name")
    dots = page.locator(".marks circle").count()
    row = json.loads(page.locator("#data").text_content())
    with sqlite3.connect(served[1] / "browse" / "index.sqlite") as index:
        block, place = index.execute("SELECT block, place FROM image WHERE id = ?", (row["id"],)).fetchone()
    index.close()
    label = np.full((row["height"], row["width"]), 255, np.uint8)
    label[15, 20], label[30:50, 25:30], label[55, 60] = 1, 1, 0
    mark(Store(served[1]), {**row, "block": block, "place": place}, label)
    page.reload()
    page.wait_for_load_state("networkidle")
    assert page.locator(".marks circle").count() == dots
    assert page.locator(".marks path").count() == 4, "the class's and the background's, each with an edge"
    inks = page.locator(".marks path").evaluate_all("all => all.map(p => p.getAttribute('stroke'))")
    assert inks[1] == colour(1)
    drawn = page.locator(".marks path").nth(1)
    assert drawn.evaluate("p => p.getAttribute('d').match(/H/g).length") == 1, (
        "a point is a cross, a stroke is not"
    )
    wide = drawn.evaluate("p => p.getBoundingClientRect().width")
    page.keyboard.press("+")
    page.keyboard.press("+")
    pen = "p => Number(p.getAttribute('stroke-width')) * p.getScreenCTM().a"
    assert drawn.evaluate("p => p.getBoundingClientRect().width") > 1.5 * wide
    assert drawn.evaluate(pen) == pytest.approx(3, rel=0.02), "the pen is as wide at any zoom"

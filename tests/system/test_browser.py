"""The page in a real browser: Debian's Chromium."""

import re
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from pipeline.batch import Counts
from pipeline.page.server import PageServer
from pipeline.regions import Region
from pipeline.sources.camera import Preview, View
from pipeline.sources.scaler import PictureFormat
from tests.spooled import told
from tests.test_page import TOKEN, batch, camera, content


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    """A new tab, which keeps in mind what goes wrong in it."""
    context = browser.new_context()
    made = context.new_page()
    made.wrong = []
    made.on("pageerror", lambda error: made.wrong.append(str(error)))
    made.on("console", lambda message: made.wrong.append(message.text) if message.type == "error" else None)
    yield made
    context.close()


def jpeg(grey):
    done, data = cv2.imencode(".jpg", np.full((18, 32, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def test_the_page_shows_cameras_labels_and_events_and_follows_them(tab):
    door = Region("door", 0.25, 0.5, 0.5, 0.25)
    gate = camera(
        "gate <b>",
        preview=Preview(0, np.full((180, 320, 3), 90, np.uint8)),
        previews=1,
        views=[View(PictureFormat(8, 8), (door,))],
        taken=Counts(indexed=9, decoded=9),
    )
    yard = camera("yard", state="down", why="Connection refused")
    monitor, page = content(gate, yard, last={"cpu_percent": 50.0, "gpu_util": 40.0}, clock=time.time)
    monitor.scored(batch([8], [[0.875, 0.125]], "who", source="gate <b>", region=[0], regions=("door",)), 9, 9)
    began, over = told(1, "gate <b>")
    monitor.event(replace(began, thumbnail=jpeg(50)))
    with PageServer("127.0.0.1", 0) as server, server.serving(page):
        tab.goto(f"http://127.0.0.1:{server.port}/")
        tab.wait_for_selector(".camera.live img:not([hidden])")
        assert tab.inner_text(".camera.live .name") == "gate <b>"
        assert tab.inner_text(".camera.live .tag") == "door: person 88 %"
        assert "9 labelled" in tab.inner_text(".camera.live .counts")
        tag, view = (tab.locator(f".camera.live .{name}").bounding_box() for name in ("tag", "view"))
        assert tag["x"] - view["x"] == pytest.approx(view["width"] / 4, abs=1)
        assert tag["y"] - view["y"] == pytest.approx(view["height"] / 2, abs=1)
        assert tab.inner_text(".camera.down .why") == "Connection refused"
        assert tab.inner_text("#summary").startswith("1 of 2 cameras live")
        assert "goes on" in tab.inner_text("#events li")
        expect(tab.locator("#events img")).to_have_js_property("naturalWidth", 32)

        yard.state, gate.preview, gate.previews = "live", Preview(9, np.full((90, 320, 3), 200, np.uint8)), 2
        monitor.event(replace(over, thumbnail=jpeg(150)))
        monitor.event(next(told(1, "yard")))
        expect(tab.locator(".camera.live")).to_have_count(2)
        expect(tab.locator(".camera img").first).to_have_js_property("naturalHeight", 90)
        assert [item.partition("\n")[0] for item in tab.locator("#events li").all_inner_texts()] == [
            "person 75 %",
            "person 88 %",
        ]
        assert "goes on" not in tab.locator("#events li").nth(1).inner_text()
        expect(tab.locator("#plot-rate polyline")).to_have_attribute("points", re.compile(" "))
        assert tab.inner_text("#gpu") == "40 %"
        assert tab.inner_text("#cpu") == "0.50 cores"
    tab.wait_for_selector("#lost:not([hidden])")
    wrong = [text for text in tab.wrong if "Failed to load resource" not in text and "ERR_CONNECTION" not in text]
    assert wrong == []


def test_labels_of_many_regions_are_counted_below_the_picture(tab):
    regions = [Region(f"bay-{k}", k / 10, 0.5, 0.1, 0.2) for k in range(9)]
    gate = camera(views=[View(PictureFormat(8, 8), tuple(regions))])
    monitor, page = content(gate)
    scores = [[0.875, 0.125] if k < 3 else [0.25, 0.75] for k in range(9)]
    names = tuple(region.name for region in regions)
    monitor.scored(batch([8] * 9, scores, "who", region=range(9), regions=names), 1, 1)
    with PageServer("127.0.0.1", 0) as server, server.serving(page):
        tab.goto(f"http://127.0.0.1:{server.port}/")
        expect(tab.locator(".camera .count")).to_have_text(["none 6", "person 3"])
        expect(tab.locator(".camera polygon")).to_have_count(9)
        expect(tab.locator(".camera .tag")).to_have_count(0)
        assert tab.locator(".camera polygon title").first.text_content() == "bay-0: person 88 %"


def test_a_browser_that_opened_the_page_with_its_token_stays_in(browser):
    _, page = content(camera("gate"))
    context = browser.new_context()
    tab = context.new_page()
    with PageServer("127.0.0.1", 0, TOKEN) as server, server.serving(page):
        address = f"http://127.0.0.1:{server.port}/"
        assert tab.goto(address).status == 401
        tab.goto(f"{address}?token={TOKEN.replace(' ', '%20')}")
        tab.wait_for_selector(".camera.live")
        assert tab.url == address
        assert tab.goto(address).status == 200
    context.close()

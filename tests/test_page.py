"""The page at /docs, in a real browser where one is installed: a person watches a model load, and asks it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Page, expect, sync_playwright

from loader.bundle.sync_status import SyncStatus, write_sync_status
from serving import page as page_files
from serving.access.passwords import hash_password
from tests.conftest import write_bundle
from tests.model_kinds import Doubler
from tests.serve import Server, wait_until
from tests.test_openapi import DIGITS, DIGITS_CODE, HOUSE, HOUSE_CODE, fill

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PNG = Path(__file__).resolve().parents[1] / "examples/digits/images/7.png"
ROW = "1, 0, 0 0.5"

expect.set_options(timeout=30_000)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module", name="browser")
def real_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--no-proxy-server"])
        yield browser
        browser.close()


@pytest.fixture(name="page")
def quiet_page(browser: Browser) -> Iterator[Page]:
    """A page on which no script fails, no policy is broken, and which asks nobody but its own server."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert not wrong
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert len(hosts) <= 1
    context.close()


@pytest.fixture(scope="module", name="filled")
def filled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page"))
    fill(server)
    server.start()
    for name in ("digits", "house", "free"):
        server.wait_for(name, "ready")
    yield server
    server.stop()


def test_it_is_small_and_closed(filled: Server) -> None:
    """It has less than 30 KB, may load nothing from elsewhere, and is sent again only where it has changed."""
    sizes = []
    for path, file in page_files.FILES.items():
        first = requests.get(filled.url + path, timeout=20)
        assert first.content == file.content
        assert first.headers["Content-Type"].startswith(file.media_type)
        assert "default-src 'none'; script-src 'self'" in first.headers["Content-Security-Policy"]
        assert first.headers["Cache-Control"] == "no-cache"
        again = requests.get(filled.url + path, headers={"If-None-Match": first.headers["ETag"]}, timeout=20)
        assert again.status_code == 304
        sizes.append(len(first.content))
        assert b"://" not in first.content
    assert sum(sizes) < 30_000


@needs_browser
def test_a_form_asks_a_model(filled: Server, page: Page) -> None:
    """Values by commas or spaces make a row; the answer has its label, its time, and a curl that answers the same."""
    page.goto(f"{filled.url}/docs")
    expect(page.get_by_role("radio", name="digits 1 ready")).to_be_checked()
    page.get_by_label("pixels").fill(ROW)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text(re.compile(r"^200 in \d+ ms$"))
    answer = page.locator("#answer").inner_text()
    assert answer == '{"predictions":["one"]}'
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run([*shlex.split(copied), "-s", "--noproxy", "*"], capture_output=True, text=True, check=True)
    assert done.stdout == answer


@needs_browser
def test_a_form_has_a_field_for_each_input(filled: Server, page: Page) -> None:
    """Numbers, texts and booleans have their own fields; what is no number is named before anything is asked."""
    page.goto(f"{filled.url}/docs")
    page.get_by_role("radio", name="house").check()
    page.get_by_label("rooms").fill("four")
    page.get_by_label("street").fill('O\'Hara "St"')
    page.get_by_label("new").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text("rooms: “four” is not a number")
    page.get_by_label("rooms").fill("4")
    page.get_by_label("rooms").press("Enter")
    expect(page.locator("#answer")).to_have_text('{"predictions":[{"price":2.0,"twice":[4,8]}]}')
    curl = page.locator("#curl").inner_text()
    done = subprocess.run([*shlex.split(curl), "-s", "--noproxy", "*"], capture_output=True, text=True, check=True)
    assert done.stdout == page.locator("#answer").inner_text()
    page.get_by_label("rooms").fill("400")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text(re.compile("^400 in"))
    expect(page.locator("#answer")).to_contain_text("does not fit UINT8")


@needs_browser
def test_a_form_has_a_field_for_each_column(server: Server, page: Page) -> None:
    """Columns are filled in by name, in any order, and whole numbers of 64 bits arrive as they are."""
    config = "inputs: [{name: x, datatype: INT64, shape: [-1, 2], columns: [age, height in cm]}]\n"
    write_bundle(server.volume / "m" / "1", Doubler(1), config)
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")
    page.goto(f"{server.url}/docs")
    page.get_by_label("height in cm").fill("180")
    page.get_by_role("textbox", name="age INT64").fill("9007199254740993")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_have_text('{"predictions":[[9007199254740993,180]]}')


@needs_browser
def test_an_image_can_be_chosen_and_dropped(filled: Server, page: Page) -> None:
    """A PNG is shown and sent as it is; what is no image is refused; only models that take images offer it."""
    page.goto(f"{filled.url}/docs")
    page.get_by_label("an image").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text("Choose an image first")
    page.locator("#file").set_input_files(PNG)
    expect(page.get_by_alt_text("The chosen image")).to_be_visible()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text(re.compile("^200 in"))
    expect(page.locator("#answer")).to_have_text(re.compile('"predictions":\\["(zero|one)"\\]'))
    assert "--data-binary @7.png" in page.locator("#curl").inner_text().replace("'", "")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["text"], "a.txt", { type: "text/plain" }));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    expect(page.locator("#outcome")).to_have_text("Expected a PNG or a JPEG")
    page.get_by_role("radio", name="house").check()
    expect(page.get_by_label("an image")).to_be_hidden()
    expect(page.get_by_label("a form")).to_be_checked()


@needs_browser
def test_json_for_what_declares_nothing(filled: Server, page: Page) -> None:
    """A model without declared inputs is asked with JSON; with them, JSON begins as what the form has."""
    page.goto(f"{filled.url}/docs")
    page.get_by_label("pixels").fill(ROW)
    page.get_by_role("radio", name="JSON").check()
    expect(page.get_by_label("Body")).to_have_value('{"instances": [[1, 0, 0, 0.5]]}')
    page.get_by_role("radio", name="free").check()
    expect(page.get_by_label("a form")).to_be_hidden()
    page.get_by_label("Body").fill('{"instances": ["a"]}')
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_have_text('{"predictions":[1.0]}')
    page.get_by_label("Body").fill('{"instances": [')
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text("the body is not JSON")


@needs_browser
def test_all_of_it_works_by_keyboard(filled: Server, page: Page) -> None:
    """Tabs and arrows lead to every control in order, each with a name, and Enter asks."""
    page.goto(f"{filled.url}/docs")
    page.get_by_role("radio", name="digits 1 ready").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="house 7.b ready")).to_be_checked()
    page.keyboard.press("ArrowUp")
    for key in ("Tab", "Tab"):
        page.keyboard.press(key)
    expect(page.get_by_label("pixels")).to_be_focused()
    page.keyboard.type("0 0 0 0")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text('{"predictions":["zero"]}')
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button, progress, img")]
            .filter((e) => !(e.labels?.length || e.textContent || e.ariaLabel || e.alt)).map((e) => e.outerHTML)"""
    )
    assert nameless == []


@needs_browser
def test_phases_move_while_a_model_loads(server: Server, page: Page) -> None:
    """From nothing on the volume, over bytes that arrive, to a form: without a reload of the page."""
    server.desire(("digits", "1"))
    server.start()
    wait_until(lambda: requests.get(f"{server.url}/docs", timeout=20), "the serving port")
    page.goto(f"{server.url}/docs")
    expect(page.get_by_text("What it takes is known once it is loaded")).to_be_visible()
    expect(page.locator("#models")).to_contain_text("digits 1waiting")
    write_sync_status(server.volume, "digits", "1", SyncStatus("syncing", 3 * 2**20, 6 * 2**20))
    bar = page.get_by_role("progressbar", name="digits: syncing")
    expect(bar).to_be_visible()
    assert bar.evaluate("bar => bar.value / bar.max") == 0.5
    expect(page.locator("#models")).to_contain_text("3.0 MiB of 6.0 MiB")
    expect(page.locator("#news")).to_have_text("digits version 1: syncing")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text("is syncing: 3145728 of 6291456 bytes")
    staging = server.volume / "digits" / ".staging" / "1"
    write_bundle(staging, None, DIGITS, predictor__py="import time; time.sleep(2)\n" + DIGITS_CODE)
    staging.rename(server.volume / "digits" / "1")
    expect(page.locator("#models")).to_contain_text("digits 1loading")
    expect(page.locator("#models")).to_contain_text("digits 1ready")
    page.get_by_label("pixels").fill(ROW)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_have_text('{"predictions":["one"]}')
    put_next(server)
    expect(page.locator("#models")).to_contain_text("digits 2failed")
    expect(page.locator("#models")).to_contain_text("Version 1 answers. ")


def put_next(server: Server) -> None:
    """Desire a version that cannot be loaded."""
    write_bundle(server.volume / "digits" / "2", b"no pickle", DIGITS.replace("predictor", "asset").replace(":P", ""))
    server.desire(("digits", "2"))


@needs_browser
def test_a_token_is_asked_for(server: Server, page: Page, tmp_path: Path) -> None:
    """Where access is restricted the page shows no model before a right token came; curl never shows the token."""
    token = "s3cret" * 8
    (tmp_path / "tokens").write_text(token)
    write_bundle(server.volume / "house" / "1", None, HOUSE, predictor__py=HOUSE_CODE)
    server.desire(("house", "1"))
    server.start(access="tokens", tokens_file=str(tmp_path / "tokens"))
    server.wait_for("house", "ready")
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("heading", name="Access")).to_be_visible()
    assert "house" not in page.content()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Use token").click()
    expect(page.get_by_text("the token is not valid")).to_be_visible()
    page.get_by_label("Token").fill(token)
    page.get_by_label("Token").press("Enter")
    expect(page.get_by_role("heading", name="Access")).to_be_hidden()
    page.get_by_label("rooms").fill("2")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text('"price":1.0')
    curl = page.locator("#curl").inner_text()
    assert '-H "Authorization: Bearer $TOKEN"' in curl
    assert token not in page.content()


@needs_browser
def test_a_login_gives_the_token(server: Server, page: Page, tmp_path: Path) -> None:
    """Where there are users, a name and a password do; a wrong one is told, and none stays in the page."""
    (tmp_path / "users").write_text(f"ann:{hash_password('correct horse')}\n")
    (tmp_path / "secret").write_text("k" * 40)
    write_bundle(server.volume / "house" / "1", None, HOUSE, predictor__py=HOUSE_CODE)
    server.desire(("house", "1"))
    files = {"users_file": str(tmp_path / "users"), "signing_secret_file": str(tmp_path / "secret")}
    server.start(access="users", **files)
    server.wait_for("house", "ready")
    page.goto(f"{server.url}/docs")
    page.get_by_label("User").fill("ann")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("the name or the password is wrong")).to_be_visible()
    expect(page.get_by_label("Password")).to_have_value("")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_label("Password").press("Enter")
    expect(page.get_by_role("radio", name="house 1 ready")).to_be_checked()

"""The dashboard in a headless Chromium: logs in, finds a client that mosquitto_sub made, publishes a
message and reads it in the console, has it explained, disconnects the client.
dashboard.py ADDRESS PICTURES CLIENT_ID USER PASSWORD [CHROMIUM]: PICTURES is a directory, or empty."""

import re
import sys
import time
from urllib.parse import urlparse

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
ADDRESS, PICTURES, CLIENT, USER, PASSWORD = sys.argv[1:6]
CHROMIUM = sys.argv[6] if len(sys.argv) > 6 else "/usr/bin/chromium"
# Some tens of milliseconds on a machine that has nothing else to do; tests run beside others.
PAINT = 5000
WRONG = []


def check(what, holds):
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        WRONG.append(what)


def watch(page):
    page.on("pageerror", lambda error: WRONG.append(f"page error: {error}"))
    page.on("console", lambda line: WRONG.append(line.text)
            if line.type == "error" and not re.search("40[014]", line.text) else None)
    page.on("dialog", lambda dialog: dialog.accept())
    page.on("request", lambda request: WRONG.append(f"request to {request.url}")
            if urlparse(request.url).hostname != "127.0.0.1" else None)


def picture(page, name):
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


def log_in(page):
    began = time.monotonic()
    page.goto(ADDRESS)
    page.locator("input[name=username]").wait_for()
    form = 1000 * (time.monotonic() - began)
    # The browser may report the paint a little after it has shown the form.
    paint = None
    for _ in range(100):
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        if paint is not None:
            break
        page.wait_for_timeout(50)
    if paint is None:
        sys.exit("the browser reports no first paint")
    weight = page.evaluate("""["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
        .reduce((sum, one) => sum + one.encodedBodySize, 0)""")
    print(f"first paint after {paint:.0f} ms, the form after {form:.0f} ms; {weight} bytes")
    check(f"the first paint comes within {PAINT} ms", paint < PAINT)
    check("all of the page is under 300 KB", 10_000 < weight < 300_000)
    page.fill("input[name=username]", USER)
    page.fill("input[name=password]", "wrong")
    page.keyboard.press("Enter")
    page.locator("[role=alert]", has_text="wrong").wait_for()
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.locator("main h1", has_text="Overview").wait_for()
    page.locator("main .big", has_text="/s").first.wait_for()
    check("the overview shows the version", "Version" in page.locator("main").inner_text())
    page.locator("main .legend", has_text="CPU").first.wait_for()
    cores = page.locator("main .legend", has_text="CPU").first.inner_text()
    check("each core's CPU, lag and memory are shown", all(word in cores for word in ["busy", "lag", "holds"]))
    picture(page, "overview")


def open_page(page, where, title):
    page.goto(f"{ADDRESS}/#/{where}")
    page.locator("main h1", has_text=title).wait_for()


def look(page):
    open_page(page, "clients", "Clients")
    page.fill("input[type=search] >> nth=0", CLIENT[2:])
    page.keyboard.press("Enter")
    page.locator("main a", has_text=CLIENT).click()
    page.locator("main h1", has_text=CLIENT).wait_for()
    shown = page.locator("main").inner_text()
    check("the client's filter is shown", "plant/#" in shown)
    check("so is its traffic", re.search(r"From it\s+0 messages", shown))
    check("and how it was last disconnected", "not lately" in shown)
    picture(page, "client")
    open_page(page, "console", "Console")
    page.fill("input >> nth=3", "plant/+/t")
    page.get_by_role("button", name="Connect").click()
    page.locator("#state", has_text="connected").wait_for()
    page.fill("#topic", "plant/7/t")
    for _ in range(50):  # the subscription may not be there yet
        page.fill("#payload", "21.5 from the page")
        page.get_by_role("button", name="Publish").click()
        page.wait_for_timeout(100)
        if page.locator("#log p", has_text="21.5 from the page").count():
            break
    check("the console shows the message", page.locator("#log p", has_text="21.5 from the page").count() > 0)
    page.locator("ul.tree summary", has_text="plant").wait_for()
    picture(page, "console")
    open_page(page, "explain", "Explain")
    page.fill("input >> nth=0", "plant/7/t")
    page.get_by_role("button", name="Explain").click()
    page.locator("main a", has_text=CLIENT).wait_for()
    check("explain names the client", "sent" in page.locator("main").inner_text())
    picture(page, "explain")
    for where in ["subscriptions", "topics", "retained", "listeners", "config", "doctor"]:
        title = {"config": "Configuration"}.get(where, where.capitalize())
        open_page(page, where, title)
        page.locator("main table, main pre").first.wait_for()
        failures = page.locator("main [role=alert]:not(:empty)").count()
        check(f"{title}: no failure is shown", failures == 0)
        check(f"{title}: nothing is missing", "null" not in page.locator("main").inner_text().split())
        picture(page, where)


def small_and_dark(page):
    page.set_viewport_size({"width": 390, "height": 800})
    open_page(page, "", "Overview")
    page.locator("main .big").first.wait_for()
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth + 1")
    check("a phone needs no sideways scrolling", not wide)
    picture(page, "phone")
    page.get_by_role("button", name="Menu").click()
    page.locator("nav a", has_text="Clients").click()
    page.locator("main h1", has_text="Clients").wait_for()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.click("#theme")
    page.keyboard.press("Tab")
    check("the keyboard moves the focus", page.evaluate("document.activeElement !== document.body"))
    picture(page, "clients-dark")


def leave(page):
    open_page(page, f"client/{CLIENT}", CLIENT)
    page.get_by_role("button", name="Disconnect").click()
    page.locator("main h1", has_text="Clients").wait_for()
    still = page.evaluate("""async (name) => {
        const Authorization = `Bearer ${sessionStorage.getItem("ringmq-token")}`;
        const answer = await fetch(`/api/v1/clients/${name}`, { headers: { Authorization } });
        return answer.status === 200 && (await answer.json()).connected;
    }""", CLIENT)
    check("the client is disconnected", not still)
    page.get_by_role("button", name="Log out").click()
    page.locator("input[name=username]").wait_for()
    check("after logging out the form is there", True)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watch(page)
    for part in [log_in, look, small_and_dark, leave]:
        part(page)
    browser.close()
if WRONG:
    sys.exit("\n".join(WRONG))

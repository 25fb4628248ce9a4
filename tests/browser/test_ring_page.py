"""The ring page in Chromium, as people use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from cachebackend import RingCache
from cachebackend.admin import page as ring_page
from cachebackend.monitoring import Fault, SiteFigures, site_figures
from cachebackend.monitoring.events import record_event
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.telemetry.publisher import publish_counts
from cacheproject.services import Services
from tests.browser.chromium import CHROMIUM, launch
from tests.zoo.models import Poem

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is missing: install it, or set CHROMIUM to its path"
    ),
]
PATH = "/admin/cachebackend/ring/"
#: Allows what the site itself serves, and nothing inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'"
)
#: An element of each kind of text.
TEXTS = (
    "#verdict",
    ".why p",
    ".when",
    ".tile .label",
    ".tile strong",
    "#content dt",
    "#content dd",
    ".state.up",
    "tr .note",
    "#content button",
    "summary",
    ".axis span",
)
#: The relative luminance of a colour, 0 to 1; and the contrast of a text with its background (WCAG 2.1).
LUMINANCE = """(colour) => colour.match(/[\\d.]+/g).slice(0, 3)
    .map((part) => (colour.startsWith("color(") ? Number(part) : part / 255))
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0)"""
CONTRAST = f"""(element) => {{
    const colourOf = (each) => getComputedStyle(each).backgroundColor;
    const isClear = (each) => /^rgba\\(.*, 0\\)$/.test(colourOf(each));
    let behind = element;
    while (behind.parentElement && isClear(behind)) behind = behind.parentElement;
    const lights = [getComputedStyle(element).color, colourOf(behind)].map({LUMINANCE});
    return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
}}"""
#: How many links, buttons and fields have no accessible name.
NAMELESS = """[...document.querySelectorAll(
    "#content a, #content button, #content input:not([type=hidden]), #content select"
)].filter((each) => !(each.innerText || each.ariaLabel || each.labels?.[0]?.innerText)).length"""

#: What is not wholly inside the window; only tables without buttons may be wider, in boxes that scroll.
CUT_OFF = """[...document.querySelectorAll("#content *")]
    .filter((each) => !each.closest(".scroll:not(.nodes), .visually-hidden, thead"))
    .filter((each) => each.getBoundingClientRect().right > innerWidth)
    .map((each) => `${each.tagName} ${each.className} ${each.innerText}`)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv(
            "DJANGO_ALLOW_ASYNC_UNSAFE", "1"
        )  # playwright keeps an event loop running in this thread
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, live_server: Any, empty_nodes: None) -> Iterator[Callable[..., Page]]:
    """Opens the ring page as a user, with the options of a browser context; a worker has just run."""
    User.objects.create_superuser("root", password="root")
    contexts = []
    for task in ("relay", "tick"):
        record_run(task)

    def open_page(user: str = "root", **named: Any) -> Page:
        context = browser.new_context(**named)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{live_server.url}/admin/login/?next={PATH}")
        page.fill("#id_username", user)
        page.fill("#id_password", "root")
        page.click("input[type=submit]")
        page.wait_for_url(f"**{PATH}")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_figures_refresh_by_themselves(open_page: Callable[..., Page], ring_cache: RingCache) -> None:
    """Without a click; open details stay open, and the focus stays where it is."""
    ring_cache.set("k", 1)
    page = open_page()
    page.clock.install()
    page.reload()
    page.click("text=The charts as a table")
    page.focus("[data-node=ring-b] button")
    before = int(page.get_attribute("[data-figure=hits]", "data-value") or 0)
    for _ in range(7):
        ring_cache.get("k")
    publish_counts("default")
    page.clock.run_for(6000)
    # At least 7 more: the page's own session is read through the ring too
    shown = "Number(document.querySelector('[data-figure=hits]').dataset.value)"
    page.wait_for_function(f"{shown} >= {before + 7}")
    assert page.locator("details").first.get_attribute("open") is not None
    expect(page.locator("[data-node=ring-b] button")).to_be_focused()


def test_a_dead_node_turns_red_and_comes_back(
    open_page: Callable[..., Page], ring_cache: RingCache, services: Services
) -> None:
    """By refresh: the verdict, the ring and the table show it; a probe brings it back."""
    page = open_page()
    page.clock.install()
    page.reload()
    expect(page.locator("#verdict")).to_have_text("All is well")
    page.focus("[data-node=ring-a] button")
    services.kill("ring-c")
    try:
        page.clock.run_for(6000)
        expect(page.locator(".verdict")).to_contain_text("Node ring-c")
        assert page.locator("path.arc.down").count() == 1
        assert page.locator("[data-node=ring-c] .state").inner_text() != "up"
        assert page.locator("tr[data-node]").first.get_attribute("data-node") == "ring-c"
        expect(page.locator("[data-node=ring-a] button")).to_be_focused()
    finally:
        services.restart("ring-c")
    for task in ("relay", "tick"):
        record_run(task)
    # The refreshes alone bring it back: each of them reads from the node, and so probes it when that is due
    for _ in range(100):
        with page.expect_response(f"**{PATH}"):
            page.clock.run_for(6000)
        if page.inner_text("#verdict") == "All is well":
            break
    expect(page.locator("#verdict")).to_have_text("All is well")
    expect(page.locator("path.arc.up")).to_have_count(3)


def test_two_faults_of_a_kind_stay_on_the_page(
    open_page: Callable[..., Page], ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh changes each of them; none takes the place of the other one."""
    messages = ["Node ring-a is down.", "Node ring-b is down."]

    def figures() -> SiteFigures:
        faults = [Fault(FaultKind.NODE_DOWN, message) for message in messages]
        return replace(site_figures(), faults=faults)

    monkeypatch.setattr(ring_page, "site_figures", figures)
    page = open_page()
    page.clock.install()
    page.reload()
    links = page.locator(".faults > li > a")
    expect(links).to_have_text(messages)
    messages[:] = ["Node ring-a is still down.", "Node ring-b is still down."]
    page.clock.run_for(6000)
    expect(links).to_have_text(messages)


@pytest.mark.parametrize("problem", ["logged out", "500", "offline", "recovered"])
def test_a_page_that_cannot_refresh_says_so(
    open_page: Callable[..., Page], ring_cache: RingCache, problem: str
) -> None:
    """It turns red and says how old its figures are; the next refresh that succeeds shows new ones."""
    page = open_page()
    page.clock.install()
    page.reload()
    expect(page.locator("#verdict")).to_have_text("All is well")
    if problem == "logged out":
        page.context.clear_cookies()
        why = "you are logged out"
    elif problem == "500":
        page.route(f"**{PATH}", lambda route: route.fulfill(status=500, body="no"))
        why = "the site returned an error (500)"
    else:
        page.route(f"**{PATH}", lambda route: route.abort())
        why = "the site does not answer"
    page.clock.run_for(6000)
    expect(page.locator("#verdict")).to_have_text("The figures are old")
    expect(page.locator(".verdict")).to_have_class("verdict bad")
    expect(page.locator(".why")).to_have_text(
        re.compile(rf"They are from \d\d:\d\d:\d\d: {re.escape(why)}\.")
    )
    expect(page.locator("#ring-page")).to_have_class("old")
    assert page.get_attribute("#ring-page", "data-age") is not None
    assert page.evaluate("getComputedStyle(document.querySelector('.tiles')).opacity") == "0.45"
    if problem == "recovered":
        page.unroute(f"**{PATH}")
        page.clock.run_for(6000)
        expect(page.locator("#verdict")).to_have_text("All is well")
        expect(page.locator(".verdict")).to_have_class("verdict good")
        expect(page.locator("#ring-page")).not_to_have_class("old")


def test_a_key_is_looked_up_and_deleted_after_a_question(
    open_page: Callable[..., Page], ring_cache: RingCache
) -> None:
    """Nothing is deleted before the user has confirmed."""
    ring_cache.set("k", {"a": "<b>bold</b>"})
    page = open_page()
    page.fill("#id_key", "k")
    page.click("button:text-is('Look up')")
    expect(page.locator("#looked-up")).to_contain_text("<b>bold</b>")
    page.click("text=Delete the key")
    expect(page.locator("#content")).to_contain_text("You are about to delete the key")
    page.click("text=Yes, do it")
    expect(page.locator(".messagelist")).to_contain_text("Delete the key 'k' of 'default': done")
    assert ring_cache.get("k") is None


def test_a_strict_content_security_policy_breaks_nothing(
    open_page: Callable[..., Page], ring_cache: RingCache, settings: Any
) -> None:
    """The page has no inline script or style: it refreshes and deletes, in German with separators too."""
    settings.LANGUAGE_CODE, settings.USE_THOUSAND_SEPARATOR = "de", True
    ring_cache.set("k", 1, version=1_234_567)
    page = open_page(locale="de-DE")
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))

    def with_policy(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, headers=response.headers | {"content-security-policy": POLICY})

    page.route(f"**{PATH}*", with_policy)
    page.clock.install()
    page.goto(f"{page.url}?alias=default&key=k&version=1234567")
    with page.expect_response(f"**{PATH}"):
        page.clock.run_for(6000)
    expect(page.locator("#verdict")).to_have_text("All is well")
    page.click("text=Delete the key")
    page.click("text=Yes, do it")
    expect(page.locator(".messagelist")).to_contain_text("Delete the key 'k' of 'default': done")
    assert ring_cache.get("k", version=1_234_567) is None
    assert messages == []


def test_without_permission_there_is_no_page(open_page: Callable[..., Page]) -> None:
    """The address answers 403; with the permission to view there is a page, without buttons."""
    user = User.objects.create_user("staff", password="root", is_staff=True)
    page = open_page("staff")
    assert page.locator("#ring-page").count() == 0
    expect(page.locator("body")).to_contain_text("403 Forbidden")
    user.user_permissions.add(Permission.objects.get(codename="view_ring"))
    page.reload()
    expect(page.locator("#ring-page")).to_be_visible()
    assert page.locator("#content button:has-text('…')").count() == 0


def test_it_needs_no_script(open_page: Callable[..., Page], ring_cache: RingCache) -> None:
    """Without JavaScript the page says that it does not refresh itself."""
    page = open_page(java_script_enabled=False)
    expect(page.locator("#verdict")).to_have_text("All is well")
    expect(page.locator("svg.ring")).to_be_visible()
    expect(page.locator(".when")).to_contain_text("does not refresh itself")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_queries_of_cached_querysets_fit(
    open_page: Callable[..., Page], ring_cache: RingCache, width: int
) -> None:
    """What their results depend on, or why they are not cached, is shown completely."""
    for _ in range(2):
        list(Poem.cached.filter(author__name="a", rank__gt=1).select_related("author"))
        list(Poem.cached.annotate(now=Now()))
    page = open_page(viewport={"width": width, "height": 900})
    rows = page.locator("[data-key^='zoo.Poem: ']")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("rows: zoo_author by name (id); zoo_poem (")
    expect(rows.last).to_contain_text("Now() has another value each time that the query runs")
    assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width", [390, 1440])
def test_the_usage_and_the_timeline_fit(
    open_page: Callable[..., Page], ring_cache: RingCache, width: int
) -> None:
    """Keys are sampled when a person asks, beside charts of a week."""
    ring_cache.set("product:1", "x" * 1000)
    record_event("command", "root (ann) on web-1", "manage.py writebehind drain timeout=300.0: done")
    page = open_page(viewport={"width": width, "height": 900})
    page.click("text=a week")
    page.click("text=Sample keys")
    expect(page.locator("#usage")).to_contain_text("demo:1:product:1")
    expect(page.locator("#timeline")).to_contain_text("root (ann) on web-1")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(NAMELESS) == 0


def test_it_fits_a_phone(open_page: Callable[..., Page], ring_cache: RingCache) -> None:
    """Nothing but a table's own box scrolls sideways; the verdict is visible without scrolling."""
    page = open_page(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#verdict")).to_be_in_viewport()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_every_node_and_its_button_fit(
    open_page: Callable[..., Page], services: Services, settings: Any, width: int
) -> None:
    """Also a node with a long name, a node without a button, and a dead node with its error and its time."""
    a, b, c = services.ring_urls
    long_name = "cache-node-eu-central-1a.internal.example.com"
    block = settings.CACHES["default"] | {
        "LOCATION": [a, b.replace("ring-b", long_name)],
        "OPTIONS": {"gutter": [c]},
    }
    settings.CACHES = settings.CACHES | {"default": block}
    for task in ("relay", "tick"):
        record_run(task)
    page = open_page(viewport={"width": width, "height": 900})
    assert page.evaluate(CUT_OFF) == []
    services.kill("ring-a")
    try:
        page.reload()
        page.reload()  # its breaker opened, so that it has a time
        expect(page.locator("[data-node=ring-a] .state")).to_have_text("down")
        assert page.evaluate(CUT_OFF) == []
    finally:
        services.restart("ring-a")
    assert page.locator(f"[data-node='{long_name}'] button").inner_text() == "Clear…"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark_mode(
    open_page: Callable[..., Page], ring_cache: RingCache, scheme: str
) -> None:
    """Every kind of text has a contrast of at least 4.5 to 1 (WCAG 2.1, AA), in light and in dark mode."""
    page = open_page(color_scheme=scheme)
    is_dark = page.evaluate(f"({LUMINANCE})(getComputedStyle(document.body).backgroundColor)") < 0.2
    assert is_dark == (scheme == "dark")
    for selector in TEXTS:
        contrast = page.evaluate(f"({CONTRAST})(document.querySelector({selector!r}))")
        assert contrast >= 4.5, f"{selector}: {contrast}"


def test_it_can_be_used_by_keyboard(open_page: Callable[..., Page], ring_cache: RingCache) -> None:
    """Every link, button and field has a name, and the keyboard reaches the tiles and the tables."""
    page = open_page()
    assert page.evaluate(NAMELESS) == 0
    page.locator(".tile a").first.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#cache-default")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None

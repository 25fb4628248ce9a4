"""The ring page as a person has it, in Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cachebackend import RingCache
from cachebackend.backend.counting import fold_counts
from cacheproject.services import Services

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or name it in CHROMIUM"),
]
PATH = "/admin/cachebackend/ring/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright leaves its loop running in this thread
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, live_server: Any) -> Iterator[Callable[..., Page]]:
    """Opens the ring page, logged in; takes what a browser context takes."""
    User.objects.create_superuser("root", password="root")
    contexts = []

    def open_page(**named: Any) -> Page:
        context = browser.new_context(**named)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{live_server.url}/admin/login/?next={PATH}")
        page.fill("#id_username", "root")
        page.fill("#id_password", "root")
        page.click("input[type=submit]")
        page.wait_for_url(f"**{PATH}")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_figures_change_while_one_looks(open_page: Callable[..., Page], ring_cache: RingCache) -> None:
    """Without a click, and an opened table stays open."""
    ring_cache.set("k", 1)
    page = open_page()
    page.clock.install()
    page.reload()
    page.click("text=The charts as a table")
    before = int(page.inner_text("[data-figure=hits]"))
    for _ in range(7):
        ring_cache.get("k")
    fold_counts("default")
    page.clock.run_for(6000)
    # At least: the page's own session is read through the ring too
    shown = "Number(document.querySelector('[data-figure=hits]').textContent)"
    page.wait_for_function(f"{shown} >= {before + 7}")
    assert page.locator("details").first.get_attribute("open") is not None


def test_a_dead_node_turns_red_and_comes_back(
    open_page: Callable[..., Page], ring_cache: RingCache, services: Services
) -> None:
    """The first line says which, and the picture shows it."""
    services.kill("ring-c")
    try:
        page = open_page()
        expect(page.locator(".verdict")).to_contain_text("Node ring-c")
        assert page.locator("path.arc.down").count() == 1
        assert page.locator("[data-node=ring-c] .state").inner_text() != "up"
    finally:
        services.restart("ring-c")
    for node in ring_cache.client.nodes:
        if node.breaker is not None:
            node.breaker.close()
    page.reload()
    expect(page.locator(".verdict")).to_contain_text("All is well")


def test_a_key_is_looked_up_and_deleted_after_a_question(
    open_page: Callable[..., Page], ring_cache: RingCache
) -> None:
    """The form asks, the answer does."""
    ring_cache.set("k", {"a": "<b>bold</b>"})
    page = open_page()
    page.fill("#id_key", "k")
    page.click("text=Look")
    expect(page.locator("#looked")).to_contain_text("<b>bold</b>")
    page.click("text=Delete the key")
    expect(page.locator("#content")).to_contain_text("You are about to delete the key")
    page.click("text=Yes, do it")
    expect(page.locator(".messagelist")).to_contain_text("Delete the key 'k' of 'default': done")
    assert ring_cache.get("k") is None


@pytest.mark.parametrize(
    "browser_is",
    [{"java_script_enabled": False}, {"viewport": {"width": 390, "height": 844}}, {"color_scheme": "dark"}],
    ids=["no script", "narrow", "dark"],
)
def test_it_serves_every_browser(
    open_page: Callable[..., Page], ring_cache: RingCache, browser_is: dict[str, Any]
) -> None:
    """Nothing is cut off, nothing needs a script."""
    page = open_page(**browser_is)
    expect(page.locator("svg.ring")).to_be_visible()
    width = page.locator("html").bounding_box()
    assert width is not None
    if "viewport" in browser_is:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

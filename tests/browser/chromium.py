"""The browser of the tests and the screenshots: the Chromium of the system."""

from __future__ import annotations

import os
import shutil

from playwright.sync_api import Browser, Page, Playwright

__all__ = ["CHROMIUM", "RING_PAGE", "launch", "log_in"]

#: The path of the ring page.
RING_PAGE = "/admin/cachebackend/ring/"
#: The path of its executable; None if it is not installed.
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def launch(playwright: Playwright) -> Browser:
    """Start it without its own requests to the network."""
    return playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    )


def log_in(browser: Browser, address: str, login: str) -> Page:
    """Return the ring page of a site, as a user sees it whose password is also the name."""
    page = browser.new_context(base_url=address).new_page()
    page.goto(f"/admin/login/?next={RING_PAGE}")
    page.fill("#id_username", login)
    page.fill("#id_password", login)
    page.click("input[type=submit]")
    page.wait_for_url(f"**{RING_PAGE}")
    return page

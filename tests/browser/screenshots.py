"""Takes the screenshots of the ring page for the documentation: ``make screenshots``.

It starts servers, a worker and the load of the demo; then it kills what each picture shows as dead.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import django
from playwright.sync_api import Page, expect, sync_playwright

from cacheproject.services import Services
from tests.browser.chromium import CHROMIUM, launch, log_in

__all__ = ["main"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
#: How long the page may take to show the state of a picture, in milliseconds.
PATIENCE_MS = 90_000


def main() -> int:
    """Take all screenshots; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=150, help="how many seconds the load runs first (150)"
    )
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.stderr.write("Chromium is missing: install it, or set CHROMIUM to its path\n")
        return 1
    with Services(ring=3, queue=1, postgres=True) as services:
        os.environ |= services.env() | {"DJANGO_SETTINGS_MODULE": "cacheproject.settings"}
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # playwright keeps an event loop running in this thread
        django.setup()
        make_pictures(services, arguments.seconds)
    return 0


def make_pictures(services: Services, seconds: float) -> None:
    """Put the project under load and take the pictures, one state after the other."""
    from django.core.management import call_command

    from cacheproject.demo.load import LOGIN, Load, seed
    from cacheproject.processes import celery_worker, free_port, site

    call_command("migrate", verbosity=0, interactive=False)
    seed()
    port = free_port(0)
    with ExitStack() as running:
        worker = running.enter_context(celery_worker())
        running.enter_context(site(port))
        running.enter_context(Load())
        threading.Event().wait(seconds)
        browser = launch(running.enter_context(sync_playwright()))
        running.callback(browser.close)
        page = log_in(browser, f"http://127.0.0.1:{port}", LOGIN)
        page.set_viewport_size(DESKTOP)
        _shoot(page, "ring", lambda: expect(page.locator("#verdict")).to_have_text("All is well"))
        page.emulate_media(color_scheme="dark")
        page.reload()  # else the colours are in a transition
        _shoot(page, "ring-dark", lambda: None)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(PHONE)
        page.reload()
        _shoot(page, "ring-phone", lambda: None)
        page.set_viewport_size(DESKTOP)
        services.kill("ring-c")
        _shoot(page, "ring-node-dead", lambda: _expect_fault(page, "Node ring-c"))
        services.restart("ring-c")
        expect(page.locator("#verdict")).to_have_text("All is well", timeout=PATIENCE_MS)
        worker.terminate()
        _shoot(page, "ring-backlog", lambda: _expect_fault(page, "no worker serves the queue"))


def _expect_fault(page: Page, text: str) -> None:
    expect(page.locator(".verdict")).to_contain_text(text, timeout=PATIENCE_MS)


def _shoot(page: Page, name: str, await_state: Callable[[], None]) -> None:
    """Wait for a state, then take a picture of what is visible without scrolling."""
    await_state()
    page.screenshot(path=FOLDER / f"{name}.png")
    sys.stdout.write(f"docs/screenshots/{name}.png\n")


if __name__ == "__main__":
    sys.exit(main())

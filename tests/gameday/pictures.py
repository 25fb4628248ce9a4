"""Pictures of the ring page during incidents, for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from playwright.sync_api import Playwright

from tests.browser.chromium import RING_PAGE, launch, log_in
from tests.gameday.site import Site

__all__ = ["LOGIN", "Pictures"]

#: The name and the password of the operator.
LOGIN = "operator"
#: The widths and heights of a desk and of a phone.
_SIZES = ((1440, 900), (390, 844))
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


class Pictures:
    """Takes pictures of what the ring page shows without scrolling, wide and narrow, light and dark.

    Args:
        playwright: Starts the browser.
        site: The site. It runs, and has a superuser ``LOGIN``.
        folder: Where the pictures are stored; it is made.
    """

    def __init__(self, playwright: Playwright, site: Site, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._browser = launch(playwright)
        self._page = log_in(self._browser, site.address("web"), LOGIN)

    def take(self, name: str) -> None:
        """Take the pictures of a state, and name them after it."""
        for width, height in _SIZES:
            for scheme in _SCHEMES:
                self._page.set_viewport_size({"width": width, "height": height})
                self._page.emulate_media(color_scheme=scheme)
                self._page.goto(RING_PAGE)
                file = f"{name.replace(' ', '-')}-{width}-{scheme}.png"
                self._page.screenshot(path=self._folder / file)

    def close(self) -> None:
        """End the browser."""
        self._browser.close()

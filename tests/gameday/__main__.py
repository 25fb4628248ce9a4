"""``python -m tests.gameday``: play incidents on a small running site, and print what was shown of each."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cacheproject.processes import interrupt_on_signals
from cacheproject.services import Services
from tests.live.spawning import set_up

if TYPE_CHECKING:
    from tests.gameday.pictures import Pictures
    from tests.gameday.play import Outcome
    from tests.gameday.site import Site


def main() -> int:
    """Play the incidents; return 1 if anything was missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of incidents, with commas between them")
    parser.add_argument("--quick", action="store_true", help="only the few that `make test` plays")
    parser.add_argument("--healthy", type=float, default=60.0, help="seconds without an incident (60)")
    parser.add_argument("--timeout", type=float, default=1.0, help="timeouts for nodes, in seconds (1)")
    parser.add_argument(
        "--pictures", metavar="FOLDER", help="take pictures of the ring page in each incident"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--write", action="store_true", help="write the table into docs/production.md")
    options = parser.parse_args()
    interrupt_on_signals()
    with Services(ring=3, queue=1) as services:
        os.environ["RING_OPTIONS"] = os.environ["WRITE_BEHIND_OPTIONS"] = json.dumps(
            {"connect_timeout": options.timeout, "socket_timeout": options.timeout}
        )
        set_up(services)
        outcomes = list(run(services, options))
    if options.json:
        print(json.dumps([asdict(each) for each in outcomes]))
    if options.write:
        from tests.gameday.table import markdown, write

        write(markdown(outcomes, options.healthy, options.timeout))
    return int(any(each.wrong for each in outcomes))


def run(services: Services, options: argparse.Namespace) -> list[Outcome]:
    """Start the site and play the incidents in turn; report each as it ends."""
    from cacheproject.demo.models import Article
    from tests.gameday.incidents import INCIDENTS, POISON, QUICK
    from tests.gameday.play import HEALTHY, play, watch_healthy_site
    from tests.gameday.site import ARTICLES, Site

    Article.objects.bulk_create(Article(slug=slug, title=slug) for slug in (*ARTICLES, POISON))
    names = QUICK if options.quick else tuple(filter(None, options.only.split(",")))
    chosen = [each for each in INCIDENTS if not names or each.name in names]
    outcomes: list[Outcome] = []
    site = Site(services, options.timeout)
    look = None
    with ExitStack() as running:
        running.callback(site.close)
        began = time.monotonic()
        site.start()
        print(f"the site runs after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        if not names or HEALTHY in names:
            report(watch_healthy_site(site, options.healthy), outcomes)
        if options.pictures:
            look = running.enter_context(pictures(site, Path(options.pictures))).take
        for incident in chosen:
            report(play(site, incident, look), outcomes)
    return outcomes


@contextmanager
def pictures(site: Site, folder: Path) -> Iterator[Pictures]:
    """Start a browser in which an operator has logged in."""
    from django.contrib.auth import get_user_model
    from playwright.sync_api import sync_playwright

    from tests.gameday.pictures import LOGIN, Pictures

    get_user_model().objects.create_superuser(LOGIN, password=LOGIN)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # playwright keeps an event loop running in this thread
    with sync_playwright() as playwright:
        taken = Pictures(playwright, site, folder)
        try:
            yield taken
        finally:
            taken.close()


def report(outcome: Outcome, outcomes: list[Outcome]) -> None:
    """Add an outcome, and print its row and what was wrong."""
    from tests.gameday.table import cells

    outcomes.append(outcome)
    print("  ".join(filter(None, cells(outcome))), file=sys.stderr)
    if outcome.message:
        print(f"    {outcome.message}\n    {outcome.way_out}", file=sys.stderr)
    if outcome.last and (outcome.well or 0) > 5:
        print(f"    last: {outcome.last}", file=sys.stderr)
    for place, texts in outcome.wrong.items():
        for text in texts:
            print(f"  ! {place}: {text}", file=sys.stderr)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

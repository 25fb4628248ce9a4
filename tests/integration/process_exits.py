"""Processes that count and end, each in its way: what ``test_counting`` starts."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import django
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.core.cache import cache  # noqa: E402  # Django must be set up before

#: A key that is there.
THERE = "there"
QUEUE = "counting"


def count(times: int) -> None:
    """Count as many hits as misses."""
    for _ in range(times):
        cache.get(THERE)
        cache.get("not there")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Count with each request, as a site does."""
    count(1)
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]


app = Celery("process_exits", set_as_current=False)  # tests import this beside the project's own
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.task_default_queue = QUEUE
app.conf.imports = ["cachebackend.tasks"]


@app.task
def count_in_task(times: int) -> None:
    """Count, and say so."""
    count(times)
    with app.connection_for_write() as connection:
        connection.default_channel.client.rpush(f"{QUEUE}:done", times)


def main(way: str, times: int) -> None:
    """Count and end."""
    if way in multiprocessing.get_all_start_methods():
        child = multiprocessing.get_context(way).Process(target=count, args=(times,))
        child.start()
        child.join()
        sys.exit(child.exitcode)
    count(times)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

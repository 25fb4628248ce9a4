"""The processes of the live checkers: each sets Django up by itself, like those of a site."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from typing import Any

import django

from cacheproject.processes import call_after_setup
from cacheproject.services import Services

__all__ = ["set_up", "spawn", "stop_if_dead"]

_context = multiprocessing.get_context("spawn")


def spawn(name: str, *arguments: Any, **environment: str) -> BaseProcess:
    """Start a process that runs a function by its dotted name.

    Args:
        name: The function's name.
        arguments: Its arguments.
        environment: Environment variables that differ from those of this process.
    """
    process = _context.Process(target=_lead, args=(name, *arguments), daemon=True)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return process


def _lead(name: str, *arguments: Any) -> None:
    logging.disable()  # servers are killed on purpose here
    call_after_setup(name, *arguments)


def set_up(services: Services) -> None:
    """Set Django up in this process for these services, and create the tables."""
    from django.core.management import call_command

    os.environ.update(services.env())
    os.environ["DJANGO_SETTINGS_MODULE"] = "cacheproject.settings"
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)


def stop_if_dead(processes: Iterable[BaseProcess]) -> None:
    """Raise if one of the processes has ended; only the checker may end them.

    Raises:
        RuntimeError: A process has ended.
    """
    for process in processes:
        if not process.is_alive():
            message = f"a process of the checker ended by itself ({process.exitcode})"
            raise RuntimeError(message)

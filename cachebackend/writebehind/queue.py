"""The project's queue, as the settings name it, and the models whose rows it holds."""

from __future__ import annotations

from dataclasses import replace

from django.apps import apps
from django.db import models

from cachebackend.client import QueueClient
from cachebackend.conf import write_behind_options
from cachebackend.errors import WriteBehindError
from cachebackend.protocol import Partition
from cachebackend.registry import queue_client

__all__ = ["behind_models", "model_named", "model_of", "note_model", "project_queue", "watched_queue"]

_models: list[type[models.Model]] = []


def note_model(model: type[models.Model]) -> None:
    """Note that a model's rows are written behind."""
    _models.append(model)


def behind_models() -> list[type[models.Model]]:
    """Return the models whose rows are written behind, each once."""
    return list(dict.fromkeys(_models))


def project_queue() -> QueueClient:
    """Return the client of the queue nodes that ``WRITE_BEHIND`` names.

    Raises:
        ConfigurationError: The setting has faults, or names none.
    """
    return queue_client(write_behind_options())


def watched_queue() -> QueueClient:
    """Return a client of the same nodes for who only looks.

    It waits for no disk, nor for longer than for a connection, so a node that hangs costs little.

    Raises:
        ConfigurationError: The setting has faults, or names none.
    """
    options = write_behind_options()
    timeout = min(options.connect_timeout, options.socket_timeout)
    return queue_client(replace(options, durability="memory", socket_timeout=timeout))


def model_of(partition: Partition) -> type[models.Model]:
    """Return the model whose rows a partition holds writes of.

    Raises:
        WriteBehindError: There is none.
    """
    model = model_named(partition.label)
    if model is None:
        message = f"the queue holds writes of {partition.label!r}, which is no model of this project"
        raise WriteBehindError(message)
    return model


def model_named(label: str) -> type[models.Model] | None:
    """Return the model of a label; None if there is none, for it was removed."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        return None

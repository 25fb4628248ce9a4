"""The project's queue client, as the settings configure it, and the models whose rows are written behind."""

from __future__ import annotations

from dataclasses import replace

from django.apps import apps
from django.db import models

from cachebackend.backend.test_prefix import queue_options
from cachebackend.client.queue import QueueClient
from cachebackend.errors import WriteBehindError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.queue import Partition, partition_counts
from cachebackend.registry import queue_client

__all__ = [
    "behind_models",
    "configured_partitions",
    "model_named",
    "model_of",
    "monitoring_queue",
    "project_queue",
    "register_model",
    "syncing_queue",
]

_models: list[type[models.Model]] = []


def register_model(model: type[models.Model]) -> None:
    """Register a model that has a ``WriteBehindManager``."""
    _models.append(model)


def behind_models() -> list[type[models.Model]]:
    """Return the registered models, each once."""
    return list(dict.fromkeys(_models))


def configured_partitions(client: QueueClient) -> list[Partition]:
    """Return the partitions of all registered models, as the queue nodes number them, or the settings."""
    counts = client.run(partition_counts(client.context, client.context.nodes)).values()
    numbers = range(max(map(abs, counts), default=client.options.partitions))
    return [Partition(model._meta.label_lower, number) for model in behind_models() for number in numbers]


def project_queue() -> QueueClient:
    """Return the client of the queue nodes in ``WRITE_BEHIND``.

    Raises:
        ConfigurationError: The setting has faults, or has no nodes.
    """
    return queue_client(queue_options())


def syncing_queue() -> QueueClient:
    """Return a client of the same nodes for seals, which are on a node's disk before their batch is drained.

    Without append-only files seals wait for what writes wait for.

    Raises:
        ConfigurationError: The setting has faults, or has no nodes.
    """
    options = queue_options()
    return queue_client(options if options.durability == "memory" else replace(options, durability="fsync"))


def monitoring_queue() -> QueueClient:
    """Return a client of the same nodes for monitoring, which never blocks for long.

    It does not wait for a disk, and waits for a reply no longer than for a connection, so a node
    that hangs costs little.

    Raises:
        ConfigurationError: The setting has faults, or has no nodes.
    """
    options = queue_options()
    timeout = min(options.connect_timeout, options.socket_timeout)
    return queue_client(replace(options, durability="memory", socket_timeout=timeout))


def model_of(partition: Partition) -> type[models.Model]:
    """Return the model whose writes a partition holds.

    Raises:
        WriteBehindError: The project has no such model.
    """
    model = model_named(partition.label)
    if model is None:
        message = f"the queue holds writes of {partition.label!r}, but this project has no such model"
        raise WriteBehindError(message)
    return model


def model_named(label: str) -> type[models.Model] | None:
    """Return the model of a label; None if the project has no such model any more."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise_interrupt(error)
        return None

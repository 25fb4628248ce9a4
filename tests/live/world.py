"""The project that `change_checker` changes while it runs: its nodes, its code, its clocks.

Each role of processes has settings of its own, in a file that is replaced as a whole. A process
lives for less than a second, and reads the file when it starts. So a deploy is a new file, and it
has ended when every process that read an older one is gone.
"""

from __future__ import annotations

import json
import os
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

__all__ = ["TABLE", "Role", "Version", "World", "become", "run_as", "wait_for"]

TABLE = "demo_meter"
#: More than the sums of ``count``, so that a sample covers all of them: no batch is sealed but by a tick.
BATCH_ROWS = 500
#: Seconds that a change may take until every process has it, or every queue is empty, also on a busy machine.
PATIENCE = 240.0


@dataclass(frozen=True)
class Version:
    """A version of the model: the type of one column, the scale of another, and whether it has a third."""

    count: str = "integer"
    places: int = 2
    has_extra: bool = False


@dataclass
class Role:
    """What the processes of one role start with.

    Attributes:
        nodes: The URLs of the queue nodes.
        retiring: Those of the nodes that are being replaced.
        versions: The versions of the code; each process takes one of them.
        clocks: Seconds by which the clock of a process is wrong; each process takes one of them.
        work: What a writer writes; a reader or drainer works if there is any.
        partitions: The number of partitions.
    """

    nodes: list[str]
    retiring: list[str] = field(default_factory=list)
    versions: list[Version] = field(default_factory=lambda: [Version()])
    clocks: list[float] = field(default_factory=lambda: [0.0])
    work: list[str] = field(default_factory=list)
    partitions: int = 4


class World:
    """The settings of all roles, in a file.

    Args:
        path: The file.
        durability: That of the queue.
    """

    def __init__(self, path: Path, durability: str) -> None:
        self._path, self._durability = path, durability
        #: The number of the settings that were published last.
        self.generation = get_context("spawn").Value("q", 0, lock=False)

    def publish(self, roles: dict[str, Role]) -> None:
        """Let all processes that start from now on have these settings."""
        generation = self.generation.value + 1
        data = {name: asdict(role) for name, role in roles.items()}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"generation": generation, "roles": data}))
        new.replace(self._path)
        self.generation.value = generation

    def read(self, name: str) -> tuple[int, Role]:
        """Return the present generation, and the settings of a role."""
        stored = json.loads(self._path.read_text())
        role = Role(**stored["roles"][name])
        role.versions = [Version(**version) for version in role.versions]  # type: ignore[arg-type]
        return stored["generation"], role

    def queue_settings(self, role: Role) -> dict[str, Any]:
        """Return ``WRITE_BEHIND`` of a role."""
        return {
            "nodes": role.nodes,
            "retiring": role.retiring,
            "durability": self._durability,
            "partitions": role.partitions,
            "batch_rows": BATCH_ROWS,
        }


def become(world: World, role: Role) -> Any:
    """Give this process a role's settings, code and clock; return the model."""
    from django.test import override_settings
    from django.utils import timezone

    from cachebackend.clock import SystemClock

    override_settings(WRITE_BEHIND=world.queue_settings(role)).enable()
    if offset := random.choice(role.clocks):
        now, django_now = time.time, timezone.now
        SystemClock.now = staticmethod(lambda: now() + offset)
        timezone.now = lambda: django_now() + timedelta(seconds=offset)
    return _model(random.choice(role.versions))


def _model(version: Version) -> Any:
    """Return the model as a version of the code defines it; once in a process."""
    from django.db import models

    from cachebackend import WriteBehindManager

    fields: dict[str, Any] = {
        "id": models.BigIntegerField(primary_key=True),
        "price": models.DecimalField(max_digits=18, decimal_places=version.places, null=True),
        "title": models.CharField(max_length=40, default=""),
        "count": {
            "integer": lambda: models.IntegerField(default=0),
            "bigint": lambda: models.BigIntegerField(default=0),
            "numeric(14,2)": lambda: models.DecimalField(max_digits=14, decimal_places=2, default=0),
            "numeric(16,4)": lambda: models.DecimalField(max_digits=16, decimal_places=4, default=0),
        }[version.count](),
    }
    if version.has_extra:
        fields["extra"] = models.IntegerField(default=0)
    meta = type("Meta", (), {"app_label": "demo", "db_table": TABLE})
    columns = [name for name in fields if name != "id"]
    attributes = {"__module__": __name__, "Meta": meta, "behind": WriteBehindManager(fields=columns)}
    return type("Meter", (models.Model,), fields | attributes)


def run_as(world: World, role: Role, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function of the model in a new process of a role, and return its result.

    Args:
        world: The settings.
        role: Those of the process.
        function: Takes the model and the arguments, and returns what JSON can hold.
        arguments: The arguments.

    Raises:
        RuntimeError: The function raised, or its process was killed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        random.seed(os.urandom(8))
        try:
            reply = {"result": function(become(world, role), *arguments)}
        except BaseException:  # noqa: BLE001  # the checker reports any error
            reply = {"error": traceback.format_exc()}
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(reply))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    reply = json.loads(text or '{"error": "it was killed"}')
    if "error" in reply:
        message = f"{function.__name__} failed: {reply['error']}"
        raise RuntimeError(message)
    return reply["result"]


def wait_for(is_done: Callable[[], Any], fault: Callable[[], str]) -> None:
    """Wait until a function returns something true.

    Args:
        is_done: The function.
        fault: Returns what is wrong otherwise.

    Raises:
        RuntimeError: It did not in time.
    """
    end = time.monotonic() + PATIENCE
    while not is_done():
        if time.monotonic() > end:
            message = f"after {PATIENCE:.0f} s: {fault()}"
            raise RuntimeError(message)
        time.sleep(0.05)

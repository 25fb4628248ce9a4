"""When each periodic task last ran, in a hash on two nodes.

Each node stores the times by its own clock, and their ages are computed by the same clock. So the clocks of
the processes do not matter.
"""

from __future__ import annotations

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.telemetry.counters import counts_of, nodes_of
from cachebackend.protocol.telemetry.node_info import seconds_of
from cachebackend.replies import integer

__all__ = ["read_run_ages", "record_run"]

_RECORD = Script(__package__, "record_run", reply=integer)
#: A time that is further in the future was stored before the node's clock was set back, and says nothing.
MAX_AHEAD_SECONDS = 1.0


def record_run(context: Context, key: bytes, task: str, expire_seconds: int) -> Operation[None]:
    """Store that a task runs now.

    Args:
        context: The alias.
        key: The key of the hash.
        task: The name of the task.
        expire_seconds: Seconds after which the hash expires, from now on.
    """
    call = _RECORD.call([key], task, b"%d" % expire_seconds)
    yield Send([(node, call) for node in nodes_of(context, key)])


def read_run_ages(context: Context, key: bytes) -> Operation[dict[str, float] | RingCacheError]:
    """Return how many seconds ago each task last ran; the error if neither node answered.

    A node that was away lacks the runs of that time, so the shorter of two ages is right.
    """
    nodes = nodes_of(context, key)
    replies = yield Send([(node, command) for node in nodes for command in ((b"TIME",), (b"HGETALL", key))])
    ages: dict[str, float] = {}
    errors: list[RingCacheError] = []
    for time, runs in zip(replies[::2], replies[1::2], strict=True):
        found = _ages(time, runs)
        if isinstance(found, RingCacheError):
            errors.append(found)
            continue
        for task, age in found.items():
            ages[task] = min(age, ages.get(task, age))
    return errors[-1] if len(errors) == len(nodes) else ages


def _ages(time: Reply, runs: Reply) -> dict[str, float] | RingCacheError:
    """Return how many seconds ago each task ran, by the replies of one node."""
    now = seconds_of(time)
    if isinstance(now, RingCacheError):
        return now
    if isinstance(runs, RingCacheError):
        return runs
    ages = {task: now - milliseconds / 1000 for task, milliseconds in counts_of(runs).items()}
    return {task: max(age, 0.0) for task, age in ages.items() if -MAX_AHEAD_SECONDS <= age < now}

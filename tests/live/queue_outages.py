"""Outages of a cluster that holds the queues of write-behind."""

from __future__ import annotations

import time

from cacheproject.cluster import CHANGE_SECONDS
from cacheproject.services import Services
from tests.live.outages import ClusterOutages

__all__ = ["QueueOutages"]


class QueueOutages(ClusterOutages):
    """Slots that move with the partitions in them, and primaries that are replaced meanwhile.

    A primary does not wait for its replica when it gives a key away or gets one. So before it is replaced the
    replica has what was moved, as after every other write that is acknowledged with ``wait_replicas``.

    Args:
        services: The servers.
        is_patient: Whether that is waited for.
    """

    def __init__(self, services: Services, *, is_patient: bool = True) -> None:
        super().__init__(services, wait_replicas=0)
        self._is_patient = is_patient

    def _before(self, source: str, target: str) -> None:
        if self._is_patient:
            for name in (source, target):
                self._wait_for_replica(name)

    def _wait_for_replica(self, primary: str) -> None:
        written = self._figure(primary, "master_repl_offset")
        [replica] = self._cluster.replicas_of(primary)
        end = time.monotonic() + CHANGE_SECONDS
        while self._figure(replica, "slave_repl_offset") < written:
            if time.monotonic() > end:
                message = f"{replica} does not follow {primary}"
                raise RuntimeError(message)
            time.sleep(0.01)

    def _figure(self, name: str, figure: str) -> int:
        return int(self._cluster.ask(name, "INFO", "replication")[figure])

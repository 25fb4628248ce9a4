"""A mixin for Django's test cases: each test has an empty ring and an empty write-behind queue."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

from cachebackend.conf import write_behind_options
from cachebackend.testing.blocks import empty_ring
from cachebackend.testing.queues import drain_now, empty_queue

if TYPE_CHECKING:
    from cachebackend.backend import RingCache

__all__ = ["RingCacheTestMixin"]


class RingCacheTestMixin(unittest.TestCase):
    """Isolates each test from others: cached keys, and queued writes. Name it before the test case.

    ``class ArticleTests(RingCacheTestMixin, TestCase)`` works with ``TestCase``, ``SimpleTestCase``,
    ``TransactionTestCase``, ``LiveServerTestCase`` and ``--parallel``. What ``setUpTestData`` queues is
    drained at its end.

    Attributes:
        ring_alias: The cache alias.
        ring_options: Arguments of ``empty_ring``, such as ``location``.
        queue_options: Arguments of ``empty_queue``, such as ``nodes``.
        ring: The cache of the alias, during a test.
    """

    ring_alias = "default"
    ring_options: dict[str, Any] = {}  # noqa: RUF012  # as Django's test cases have them
    queue_options: dict[str, Any] = {}  # noqa: RUF012
    ring: RingCache

    @classmethod
    def setUpClass(cls) -> None:
        """Isolate ``setUpTestData`` too, and drain what it queues."""
        set_up: Callable[[], None] | None = getattr(cls, "setUpTestData", None)
        if set_up is None:
            super().setUpClass()
            return

        def set_up_isolated() -> None:
            # Inside Django's own block: if it fails, Django rolls the transaction of the class back. And
            # settings that Django overrides for the class must not change within ours
            with empty_ring(cls.ring_alias, **cls.ring_options), empty_queue(**cls.queue_options):
                set_up()
                if write_behind_options().is_on:
                    drain_now()

        with mock.patch.object(cls, "setUpTestData", set_up_isolated):
            super().setUpClass()

    def setUp(self) -> None:
        """Give the test an empty ring and an empty queue."""
        self.ring = self.enterContext(empty_ring(self.ring_alias, **self.ring_options))
        self.enterContext(empty_queue(**self.queue_options))
        super().setUp()

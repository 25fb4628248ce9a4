"""The demo site: articles that are read through the ring, and whose views write-behind counts.

``models``, ``views`` and ``admin`` are the site; ``load``, ``trace_replay``, ``drain_check`` and
the commands show the ring at work and check that no write is lost. May import ``cachebackend``,
``cacheproject`` and rich. Nothing in ``cachebackend`` or ``workers`` imports it.
"""

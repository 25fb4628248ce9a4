"""The management commands of the app, and what they compute themselves.

``report`` is the base of the commands ``ring``, ``invalidation`` and ``writebehind``: text or
``--json``, and exit code 1 for a fault; ``tables`` prints their tables. ``parked_actions`` and
``repair_actions`` are the parts of ``writebehind`` in which a person decides; ``database_work`` gives up
a database that hangs. ``writebehind_status``, ``ring_status``, ``ring_doctor`` and ``ring_processes`` are
actions that only report. ``ring_plan`` plans a change of nodes; ``ring_simulate`` reads a trace (``traces``)
and simulates caches (``simulation``). May import ``monitoring`` and everything below it. Figures and
faults come from ``monitoring``, not from here.
"""

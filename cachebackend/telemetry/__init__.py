"""What a process reports about itself: its counters, and when periodic tasks last ran.

``publisher`` adds this process's counters to those that the nodes keep, ``heartbeat`` records
when a periodic task ran, ``shutdown`` publishes a last time when the process ends. Imports
the backend; never read by anything that serves a cached value.
"""

"""Measurements, each a module to run with ``python -m``.

May import everything. Nothing here is a test, and no test measures time.
"""

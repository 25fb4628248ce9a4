"""Measurements; nothing here is a test, and tests measure nothing."""

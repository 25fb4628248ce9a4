"""The ways in which Django writes: the functions of all kinds of steps."""

from tests.differential.writes import instances, own, querysets, relations

__all__ = ["instances", "own", "querysets", "relations"]

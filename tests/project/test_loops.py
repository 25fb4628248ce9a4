"""No node decides how many rounds a loop has."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "cachebackend"
FOLDERS = ("backend", "client", "monitoring", "protocol")
#: Each function with a ``while``, and what bounds its rounds.
BOUNDED = {
    "backend/call_names._chain": "_LONGEST_CHAIN functions",
    "backend/canonical._compared_field": "the foreign keys of the models",
    "backend/extras.aiter_keys": "Cursor",
    "backend/extras.iter_keys": "Cursor",
    "backend/lazy_objects.loaded": "the lazy objects in each other",
    "backend/remembered_leases._limit": "the leases that are remembered",
    "client/postponed._retry": "the deletes that are postponed, and the client; a pause before each round",
    "client/replay._run_over": "the operation",
    "protocol/cache/lease_on_get._acquire": "may_ask_again",
    "protocol/cache/load._lease_and_load": "may_ask_again, and MAX_PERIODS of waiting",
    "protocol/context.record_again": "the keys whose slots move while they are recorded",
    "protocol/queue/folding.fold": "MAX_TRIES in a row without a row that was folded, and the rows",
    "protocol/queue/pending_writes.contents": "Cursor",
    "protocol/ring/clear.delete_matching": "Cursor",
    "protocol/ring/clear.delete_misplaced": "Cursor",
    "protocol/ring/replay.replay_missed": "the deletes that this process records; an error ends it",
}


def loops() -> set[str]:
    return {
        f"{path.relative_to(PACKAGE).with_suffix('')}.{function.name}"
        for folder in FOLDERS
        for path in (PACKAGE / folder).rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(node, ast.While) for node in ast.walk(function))
    }


def test_each_loop_has_a_bound() -> None:
    """A new ``while`` needs a line here that says what ends it, if a node gives one valid reply for ever."""
    assert loops() == BOUNDED.keys()

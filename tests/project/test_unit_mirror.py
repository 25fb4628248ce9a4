"""``tests/unit`` mirrors ``cachebackend`` path for path, so a module's unit tests are found by its path."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, UNIT = ROOT / "cachebackend", ROOT / "tests" / "unit"
#: Modules without a unit test file, and the reason. ``folder/`` stands for all modules in the folder.
WITHOUT = {
    "admin/actions": "a view: needs a test client and nodes",
    "admin/parked": "a view: needs a test client and Postgres",
    "apps": "called by Django once in a process",
    "backend/cache": "puts the classes of this package together",
    "backend/client_cache": "finds the client of an alias",
    "backend/extras": "each method sends commands",
    "backend/guarded_loads": "each function sends commands",
    "backend/loaders": "each method sends commands",
    "backend/many_keys": "each method sends commands",
    "backend/request_leases": "each method sends commands",
    "backend/single_key": "each method sends commands",
    "checks/": "checks settings and databases: tests/integration",
    "client/single": "sends the requests of protocol/cache, whose functions are pure",
    "invalidation/": "reads and writes rows and nodes; watched alone is pure, and has its file",
    "management/commands/": "commands: tests/integration and tests/project",
    "management/parked_actions": "actions of a command: tests/integration/test_writebehind_command.py",
    "management/repair_actions": "actions of a command: tests/integration/test_writebehind_command.py",
    "management/ring_status": "an action of a command: tests/integration/test_ring_command.py",
    "management/usage_actions": "actions of a command: tests/integration/test_usage.py",
    "management/writebehind_status": "an action of a command: tests/integration/test_writebehind_command.py",
    "management/ring_simulate": "a command; what it computes is in management/simulation",
    "backend/collations": "asks the database's catalogue: tests/integration/test_keys.py",
    "managers/audit": "compares rows with nodes",
    "managers/cached": "a manager: tests/integration/test_models.py and test_cached_querysets.py",
    "queries/invalidating": "a manager: tests/integration/test_models.py",
    "managers/queries": "each method runs a query",
    "managers/reads": "each method reads rows through the ring: tests/integration",
    "migrations/": "written by Django",
    "models": "tables",
    "monitoring/events": "SQL: tests/integration/test_timeline.py",
    "monitoring/inspector": "asks a node and the outbox",
    "monitoring/reading": "tests/integration/test_admin.py: the page with servers that are down",
    "monitoring/registry": "asks nodes: tests/integration/test_query_inspection.py",
    "monitoring/setup": "asks nodes",
    "monitoring/site": "asks nodes and databases",
    "node/node": "sockets: tests/integration/test_connections.py and test_failures.py",
    "node/tracking": "a thread with a socket: tests/integration/test_near.py",
    "policies/policy": "a Protocol; tests/unit/policies/test_policies.py holds each policy to it",
    "queries/construction": "querysets and their results: tests/integration/test_constructions.py",
    "queries/evaluation": "reads results through the ring: tests/integration/test_cached_querysets.py",
    "queries/forms": "results of querysets: tests/integration/test_constructions.py",
    "queries/queryset": "each method runs queries: tests/integration/test_cached_querysets.py",
    "status_page": "a view: tests/integration/test_status_page.py",
    "prometheus/": "exports what nodes and databases report",
    "protocol/cache/": "stepped whole by tests/unit/protocol/cache/test_lease.py and tests/interleavings",
    "tasks": "Celery tasks: each calls one function",
    "telemetry/": "adds counters on nodes, from threads and at the end of a process",
    "testing/blocks": "starts nodes",
    "testing/cases": "sets up test cases: tests/integration/test_testing_queues.py",
    "testing/plugin": "starts nodes",
    "testing/queues": "nodes: tests/integration/test_testing_queues.py",
    "toolbar": "a panel of another package",
    "writebehind/apply": "SQL: tests/integration/test_writebehind_fields.py",
    "writebehind/bisection": "SQL: tests/integration/test_writebehind_refusals.py",
    "writebehind/checkpoint_rows": "SQL: tests/integration/test_writebehind_drains.py",
    "writebehind/drain_requests": "runs the operations of protocol/queue/drain_requests",
    "writebehind/fallback": "nodes and SQL: tests/integration/test_writebehind_rows.py",
    "writebehind/drains": "nodes and SQL: tests/integration/test_writebehind_drains.py",
    "writebehind/folds": "each function sends commands",
    "writebehind/limits": "SQL: tests/integration/test_writebehind_locks.py",
    "writebehind/transactions": "SQL: tests/integration/test_testing_queues.py",
    "writebehind/manager": "each method sends commands",
    "writebehind/moves": "nodes and SQL: tests/integration/test_writebehind_moves.py",
    "writebehind/retries": "SQL: tests/integration/test_writebehind_waiting.py",
    "writebehind/parked": "SQL: tests/integration/test_writebehind_parked.py",
    "writebehind/parked_texts": "SQL: tests/integration/test_writebehind_waiting.py",
    "writebehind/partitions": "asks nodes: tests/integration/test_writebehind_partitions.py",
    "writebehind/queue": "finds the client of the project's queue",
    "writebehind/remembered_queries": "SQL: tests/integration/test_remembered_queries.py",
    "writebehind/removed": "nodes and SQL: tests/integration/test_writebehind_removed.py",
    "writebehind/repair": "nodes and SQL: tests/integration/test_writebehind_repair.py",
    "writebehind/reads": "nodes and SQL: tests/integration/test_writebehind_reads.py",
    "writebehind/running_drains": "seen by other processes: tests/integration/test_processes.py",
    "writebehind/samples": "nodes and SQL: tests/integration/test_writebehind_repair.py",
    "writebehind/seals": "nodes and SQL: tests/integration/test_writebehind_drains.py",
    "writebehind/snapshots": "SQL: tests/integration/test_writebehind_reads.py",
    "writebehind/waiting": "nodes and SQL: tests/integration/test_writebehind_wait.py",
    "writebehind/status": "asks nodes and the database",
}


def modules() -> set[str]:
    """Return the modules by path, without the suffix. A package stands for its ``__init__``."""
    return {
        str(path.relative_to(PACKAGE).with_suffix("")).removesuffix("/__init__")
        for path in PACKAGE.rglob("*.py")
        if path.read_text() and path != PACKAGE / "__init__.py"
    }


def modules_with_tests() -> set[str]:
    """Return the modules that the paths of the unit test files name.

    The functions of a package itself are tested in its folder, by a file with its name.
    """
    found = set()
    for path in UNIT.rglob("test_*.py"):
        folder, name = path.relative_to(UNIT).parent, path.stem.removeprefix("test_")
        is_package = name == folder.name and not (PACKAGE / folder / f"{name}.py").exists()
        found.add(str(folder if is_package else folder / name))
    return found


def is_listed(module: str) -> bool:
    return any(module == name or (name.endswith("/") and module.startswith(name)) for name in WITHOUT)


def test_every_unit_test_file_belongs_to_a_module() -> None:
    """``tests/unit/ring/test_slots.py`` tests ``cachebackend/ring/slots.py``."""
    assert modules_with_tests() - modules() == set()


def test_every_module_has_its_unit_tests_or_a_reason() -> None:
    """A pure function that is tested only through a server is a gap."""
    packages = {module for module in modules() if (PACKAGE / module).is_dir()}
    assert {each for each in modules() - modules_with_tests() - packages if not is_listed(each)} == set()


def test_the_list_names_only_modules_without_a_unit_test_file() -> None:
    """A module that is gone, or has its tests by now, is taken off the list."""
    gone = {name for name in WITHOUT if not name.endswith("/") and name not in modules()}
    gone |= {name for name in WITHOUT if name.endswith("/") and not (PACKAGE / name).is_dir()}
    assert (gone, WITHOUT.keys() & modules_with_tests()) == (set(), set())

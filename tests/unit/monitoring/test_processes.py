"""Which processes differ from the others, and whose clock is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachebackend.monitoring.faults import Fault, database_scope, node_scope
from cachebackend.monitoring.processes import (
    Difference,
    ProcessFigures,
    _texts,
    clock_faults,
    dated,
    differences,
)
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.agreed_settings import AgreedSetting
from cachebackend.telemetry.processes import NodeView, Process, Processes

RING, JOINING, LEAVING = (
    "CACHES['default']['LOCATION']",
    "CACHES['default']['OPTIONS']['joining']",
    "CACHES['default']['OPTIONS']['leaving']",
)
PREFIX = "CACHES['default']['KEY_PREFIX']"


def process(name: str, kind: str = "web", host: str = "h", /, **named: object) -> Process:
    """Return a process whose settings are given as texts by path, and which started as its name sorts."""
    texts = named.pop("settings", {})
    assert isinstance(texts, dict)
    settings = {path: AgreedSetting(text, text) for path, text in texts.items()}
    return Process(name, kind, host, 1, "gunicorn", "1.0", float(ord(name[0])), settings, **named)  # type: ignore[arg-type]


def found(*processes: Process, **named: object) -> list[tuple[str, str, str, str]]:
    read = Processes(list(processes), **named)  # type: ignore[arg-type]
    return [(each.process.id, each.setting, each.value, each.usual) for each in differences(read)]


def test_the_process_that_most_others_differ_from_is_named() -> None:
    """With the value that it has, and that of the others."""
    shop, other = {PREFIX: "shop"}, {PREFIX: "shop2"}
    processes = [process("a", settings=other), process("b", settings=shop), process("c", settings=shop)]
    assert found(*processes) == [("a", PREFIX, "shop2", "shop")]


def test_of_two_values_that_as_many_have_the_newer_process_differs() -> None:
    """It was deployed last."""
    processes = [process("a", settings={PREFIX: "shop"}), process("b", settings={PREFIX: "shop2"})]
    assert found(*processes) == [("b", PREFIX, "shop2", "shop")]


def test_a_setting_that_only_some_have_is_a_difference() -> None:
    """An alias that one process does not have, for example."""
    processes = [process("a", settings={PREFIX: "shop"}), process("b")]
    assert found(*processes) == [("b", PREFIX, "not set", "shop")]


def test_two_rings_of_one_change_are_no_difference() -> None:
    """While one process knows the new ring, and the other one the old ring."""
    old = process("a", settings={RING: "a b", JOINING: "a c", LEAVING: "none"})
    new = process("b", settings={RING: "a c", JOINING: "none", LEAVING: "a b"})
    unplanned = process("c", settings={RING: "a c", JOINING: "none", LEAVING: "none"})
    assert found(old, new) == []
    assert found(old, unplanned) == [("c", RING, "a c", "a b")]


def test_a_server_that_processes_name_differently_is_a_difference() -> None:
    """Two names that are swapped give two differences of the process that has them swapped."""
    right = {("default", "a"): "a", ("default", "b"): "b"}
    swapped = {("default", "a"): "b", ("default", "b"): "a"}
    assert found(
        process("a", names=right),
        process("b", names=right),
        process("c", names=swapped),
        node_ages={("default", "a"): 60.0, ("default", "b"): 60.0},
        endpoints={("default", "a"): "one:6379/0", ("default", "b"): "two:6379/0"},
    ) == [
        ("c", "CACHES['default']: the name of one:6379/0", "'b'", "'a'"),
        ("c", "CACHES['default']: the name of two:6379/0", "'a'", "'b'"),
    ]


@pytest.mark.parametrize(
    ("node_age", "views", "is_found"),
    [
        (60.0, (), True),
        (1.0, (), False),  # the server was emptied after the process last reported
        (60.0, (NodeView("default", "b", "ejected"),), False),
    ],
)
def test_another_server_under_a_name_is_a_difference(
    node_age: float, views: tuple[NodeView, ...], is_found: bool
) -> None:
    """A process that reports to one server, and not to the other one, has another server by its name."""
    both = {("default", "a"): "a", ("default", "b"): "b"}
    settings = {RING: "a = one:6379/0, b = two:6379/0"}
    away = process("z", settings=settings, names={("default", "a"): "a"}, views=views, age=2.0)
    differing = found(
        process("a", settings=settings, names=both),
        away,
        node_ages={("default", "a"): 60.0, ("default", "b"): node_age},
        endpoints={("default", "a"): "one:6379/0", ("default", "b"): "two:6379/0"},
    )
    assert [each[:2] for each in differing] == ([("z", "CACHES['default']: b")] if is_found else [])


@pytest.mark.parametrize(
    ("ahead", "message"),
    [
        ({"one": 0.2, "two": -0.3}, None),
        ({"one": 0.0, "two": 40.0, "three": 0.1}, "The clock of two (web 1 on two) is 40 s ahead of that of"),
        ({"one": 0.0, "two": -7.0}, "The clock of two (web 1 on two) is 7.0 s behind that of"),
        ({"one": 40.0}, "The clock of one"),
        ({"one": -60.0, "two": -61.0}, "The clocks of the nodes are 60 s ahead of the clocks of all"),
    ],
)
def test_a_clock_is_wrong_by_the_clock_of_the_nodes(ahead: dict[str, float], message: str | None) -> None:
    """The machine is named; if all machines differ by the same time, the nodes have the wrong clock."""
    processes = [process(host, "web", host, clock_ahead=seconds) for host, seconds in ahead.items()]
    messages = [fault.message for fault in clock_faults(processes)]
    assert len(messages) == (message is not None)
    assert all(each.startswith(message or "") for each in messages)


def test_two_names_that_are_swapped_are_said_to_be() -> None:
    """Instead of two differences that the reader has to put together; other differences follow."""
    odd = process("c")
    own = [
        Difference(odd, "CACHES['default']: the name of one:1", "'b'", "'a'"),
        Difference(odd, "CACHES['default']: the name of two:1", "'a'", "'b'"),
        Difference(odd, "CACHES['default']: the name of three:1", "'x'", "'c'"),
    ]
    assert list(_texts(own)) == [
        "CACHES['default']: the names a and b are swapped",
        "CACHES['default']: the name of three:1 is 'x', not 'c'",
    ]


def test_a_fault_began_when_the_first_process_noticed_it() -> None:
    """Of those that still do: a node that they do not use, a database that does not answer them."""
    views = [(NodeView("default", "a", "ejected", since),) for since in (9.0, 5.0, None)]
    figures = ProcessFigures([process("x", views=each, waits=[("two", 1.0, 7.0)]) for each in views])
    node = Fault(
        FaultKind.NODE_DOWN, "Node a of 'default' is down: refused", 8.0, scope=node_scope("default", "a")
    )
    assert dated(node, figures).since == 5.0
    assert dated(replace(node, scope=node_scope("default", "b")), figures).since == 8.0
    queue = Fault(
        FaultKind.QUEUE_NODE_DOWN, "Queue node q is down", 8.0, scope=node_scope("WRITE_BEHIND", "q")
    )
    away = process("y", views=(NodeView("WRITE_BEHIND", "q", "ejected", 6.0),))
    assert dated(queue, ProcessFigures([away])).since == 6.0
    error = "PostgreSQL does not answer: no role 'two'"  # an error may quote a name that is not a database
    database = Fault(FaultKind.DATABASE_DOWN, error, scope=database_scope("two"))
    assert dated(database, figures).since == 7.0
    assert dated(replace(database, scope=database_scope("one")), figures).since is None


def test_processes_of_a_kind() -> None:
    """A worker that runs beat too is both."""
    both, web = process("a", "worker+beat"), process("b", "web")
    figures = ProcessFigures([both, web])
    assert (figures.of_kind("beat"), figures.of_kind("worker"), figures.of_kind("web")) == (
        [both],
        [both],
        [web],
    )

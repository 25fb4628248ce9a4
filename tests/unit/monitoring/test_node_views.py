"""How processes see a node: which use it, and which do not reach it."""

from __future__ import annotations

from dataclasses import replace

from cachebackend.monitoring.faults import node_scope
from cachebackend.monitoring.node_views import users_of, view_faults
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.processes import NodeView, Process


def process(name: str, *views: NodeView, started: float = 0.0, alias: str = "default") -> Process:
    """Return a process that uses an alias."""
    return Process(name, "web", "h", 1, "gunicorn", "1.0", started, {}, views, names={(alias, "b"): "b"})


def test_a_node_that_processes_do_not_reach_is_a_fault() -> None:
    """Whether the process that asks reaches it or not, and although none of them could report to it."""
    away = process("a", NodeView("default", "a", "ejected", 5.0, 1.0, "refused"))
    other = process("b")
    [fault] = view_faults([away, other], 60.0)
    assert fault.message == ("Node a of 'default' is not reached by 1 of 2 processes (web 1 on h): refused")
    assert fault.since == 5.0
    unreported = replace(away, names={})
    for processes in ([away, replace(away, id="c")], [unreported, replace(unreported, id="c")]):
        [fault] = view_faults(processes, 6.0)
        assert "is not reached by any of the 2 processes (web 1 on h, web 1 on h)" in fault.message


def test_a_node_that_was_only_restarted_is_no_fault_of_the_network() -> None:
    """A process that has not tried it again yet does not count; each does within ten seconds."""
    away = process("a", NodeView("default", "a", "ejected", 55.0, 1.0, "refused"))
    assert list(view_faults([away, process("b")], 60.0)) == []
    assert len(list(view_faults([away, process("b")], 66.0))) == 1


def test_a_queue_node_is_called_so() -> None:
    """The name of the setting says nothing to the person on call."""
    away = process("a", NodeView("WRITE_BEHIND", "q", "ejected", 5.0, 1.0, "refused"))
    [fault] = view_faults([away, process("b", alias="WRITE_BEHIND")], 60.0)
    assert fault.message.startswith("Queue node q is not reached by 1 of 2 processes")


def test_a_process_that_has_only_begun_is_not_known_to_reach_a_node() -> None:
    """A command that an operator runs during an outage does not make it look like one of the network."""
    away = process("a", NodeView("default", "a", "ejected", 5.0, 1.0, "refused"))
    command = process("c", started=55.0)
    assert users_of([away, command], "default", "a", 60.0) == [away]
    [fault] = view_faults([away, command], 60.0)
    assert "is not reached by the only process that uses it (web 1 on h): refused" in fault.message
    assert users_of([away, command], "default", "a", 63.0) == [away, command]
    [fault] = view_faults([away, command], 63.0)
    assert "is not reached by 1 of 2 processes" in fault.message
    tried = replace(command, views=away.views)
    assert users_of([away, tried], "default", "a", 60.0) == [away, tried]


def test_a_process_that_does_not_use_the_alias_does_not_count() -> None:
    """It has other nodes."""
    away = process("a", NodeView("default", "a", "ejected", 5.0, 1.0, "refused"))
    assert users_of([away, process("b", alias="second")], "default", "a", 60.0) == [away]


def test_a_node_to_which_a_process_replays_deletes_answers_it() -> None:
    """However long the replay takes; a process that does not reach the node is a fault of its own."""
    replays = process("a", NodeView("default", "a", "replaying", 5.0, None, "refused"))
    [fault] = view_faults([replays, process("b")], 60.0)
    assert (fault.kind, fault.scope) == (FaultKind.NODE_REPLAYING, node_scope("default", "a"))
    assert fault.message.startswith(
        "Node a of 'default' answers again; it gets the missed deletes before it serves web 1"
    )
    away = process("c", NodeView("default", "a", "ejected", 5.0, 1.0, "refused"))
    [fault] = view_faults([replays, process("b"), away], 60.0)
    assert (fault.kind, "by 1 of 3 processes" in fault.message) == (FaultKind.NODE_PARTLY_REACHED, True)

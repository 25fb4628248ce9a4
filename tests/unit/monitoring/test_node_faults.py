"""Faults of nodes: down, or not reached by this process only, and what to do."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace

import pytest

from cachebackend.monitoring import Fault, NodeFigures
from cachebackend.monitoring.faults import node_scope
from cachebackend.monitoring.node_faults import node_faults, others_than, way_out
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node.translate import HandshakeError, NodeClosedError, ProtocolError, unavailable
from cachebackend.telemetry.processes import NodeView, Process

REFUSED = "node 'ring-a' is not reachable: Connection refused"
NODE = NodeFigures("ring-a", 0.5, "down", 1000.0, REFUSED, None, {}, address="10.0.0.1:6379", probe_in=8.0)


def processes(*views: NodeView, now: float = 1060.0, age: float = 2.0) -> ProcessFigures:
    """Return one other process that uses the node, with its view of the nodes, at a time."""
    other = Process(
        "x", "web", "h", 1, "", "", 0.0, {}, views, age=age, names={("default", "ring-b"): "ring-b"}
    )
    return ProcessFigures([other], now=now)


def fault(node: NodeFigures = NODE, found: ProcessFigures | None = None) -> Fault:
    [one] = node_faults("default", [node], found or ProcessFigures())
    return one


def test_a_node_that_is_down_has_its_address_its_error_and_what_to_do_about_that() -> None:
    """In the word that the table and the tile have for it, too."""
    found = fault()
    assert (found.kind, found.since, found.scope) == (
        FaultKind.NODE_DOWN,
        1000.0,
        node_scope("default", "ring-a"),
    )
    assert found.message == (
        "Node ring-a (10.0.0.1:6379) of 'default' is down: it is not reachable: Connection refused"
    )
    assert found.way_out == "Start the server at 10.0.0.1:6379: nothing listens there."
    assert list(node_faults("default", [replace(NODE, state="up")], ProcessFigures())) == []


def test_a_node_that_other_processes_use_is_not_down() -> None:
    """It is back, or only this process does not reach it, which says when it tries it again."""
    found = fault(found=processes())
    assert found.kind == FaultKind.NODE_PARTLY_REACHED
    assert ", which tries it again in 8.0 s; another process uses it: node 'ring-a' is not" in found.message


@pytest.mark.parametrize(
    "found",
    [
        processes(NodeView("default", "ring-a", "ejected")),
        processes(now=1005.0),  # the others may not have noticed it yet
        processes(age=59.0),
        ProcessFigures([replace((processes().processes or ())[0], names={})], now=1060.0),
        ProcessFigures([replace((processes().processes or ())[0], started=1055.0)], now=1060.0),
    ],
)
def test_a_node_that_no_other_process_is_known_to_use_is_down(found: ProcessFigures) -> None:
    """The others do not use it either, reported too long ago, do not use this alias, or have only begun."""
    assert fault(found=found).kind == FaultKind.NODE_DOWN


def test_a_node_to_which_deletes_are_replayed_answers() -> None:
    """It is not down any more."""
    found = fault(replace(NODE, state="replaying"))
    assert found.kind == FaultKind.NODE_REPLAYING
    assert "answers again; it serves reads when" in found.message


def test_a_node_with_a_fault_of_its_own_has_no_second_one() -> None:
    """One that says "not reached by 4 of 8 processes" looks as if the other four reached it."""
    partly = Fault(FaultKind.NODE_PARTLY_REACHED, "…", scope=node_scope("default", "ring-a"))
    other, clock = replace(partly, scope=node_scope("default", "ring-b")), Fault(FaultKind.CLOCK_WRONG, "…")
    assert others_than([fault(), clock], [partly, other, clock]) == [other, clock]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HandshakeError("refused the user or password"), "Correct the user and password"),
        (HandshakeError("accepts no more connections (its maxclients)"), "`maxclients`"),
        (HandshakeError("has no such database"), "number of the database"),
        (
            HandshakeError("lets its user write but not run scripts, …"),
            "+@scripting",
        ),
        (HandshakeError("refused the connection: NOPERM"), "configuration of h:1"),
        (ConnectionError("no server of the cluster answers: h:1 NOPERM …"), "Grant its user the command"),
        (ConnectionRefusedError(111, "Connection refused"), "Start the server at h:1"),
        (TimeoutError(), "restart the server if it hangs"),
        (ssl.SSLCertVerificationError("expired"), "Renew the certificate of h:1"),
        (socket.gaierror("unknown"), "Correct the host name"),
        (ProtocolError("HTTP"), "Correct the port"),
        (NodeClosedError(), "Read the log of the server at h:1"),
        (ConnectionError("the cluster has no slots yet"), "Give them to its servers"),
        (OSError(113, "No route to host"), "Repair the network to h:1"),
    ],
)
def test_each_kind_of_error_has_its_own_thing_to_do(error: Exception, words: str) -> None:
    """The page knows which one it is, so it does not list them all."""
    assert words in way_out(str(unavailable("a", error, 1.0)), "h:1")


def test_an_error_of_another_kind_has_what_the_runbook_says() -> None:
    """It is never empty on the page."""
    assert way_out("something else", "h:1") == ""
    assert fault(replace(NODE, error="something else")).way_out

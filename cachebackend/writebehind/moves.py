"""Moves of partitions to other queue nodes, while the nodes are replaced.

A partition that has another owner than before leaves its queue on the old node, which is named in
``WRITE_BEHIND["retiring"]``. The queue is drained first. When it is empty, the drain marks its
checkpoint as ended. From then on the old node may be removed: a queue that is gone and was not
ended stops its partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import RingCacheError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.checkpoints import stored_checkpoints
from cachebackend.writebehind.node_faults import faults_of_node
from cachebackend.writebehind.queue import configured_partitions, project_queue

__all__ = ["NodeMoves", "moved_partitions", "node_moves"]


@dataclass(slots=True)
class NodeMoves:
    """A queue node, while nodes are replaced. The attributes are keys of ``writebehind nodes --json``.

    What a node holds that does not answer is None.

    Attributes:
        node: The node's name.
        is_active: Whether it is in ``nodes``, so that it takes writes.
        is_retiring: Whether it is in ``retiring``.
        queues: The partitions that have a queue on the node, drained or not.
        fields: The number of queued fields: columns of rows.
        left: The partitions that have another owner, but whose queue here is not ended yet.
        faults: What is wrong with the node, and what to do about it.
    """

    node: str
    is_active: bool
    is_retiring: bool
    queues: int | None = 0
    fields: int | None = 0
    left: list[str] | None = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do on this node before ``retiring`` is removed."""
        return not (self.left or self.faults)


def node_moves() -> tuple[list[NodeMoves], Answers[str]]:
    """Return what each queue node still holds of moved partitions.

    Returns:
        The nodes, and, if all of them answer, the partitions whose queue is on none: they have stopped. Those
        of a database that does not answer are not known.
    """
    client = project_queue()
    options = client.options
    active = {node.name for node in options.active_nodes}
    retiring = {node.name for node in options.retiring}
    # The servers of the parts of a cluster are known when one of them has been asked
    faults = [list(faults_of_node(client, index)) for index in range(len(options.all_nodes))]
    nodes = [
        NodeMoves(client.nodes[index].name, node.name in active, node.name in retiring, faults=faults[index])
        for index, node in enumerate(options.all_nodes)
    ]
    seen: set[str] = set()
    checkpoints, errors = stored_checkpoints()
    for partition, index, state, is_left in _queues(client, checkpoints):
        node = nodes[index]
        if state is None or node.queues is None or node.fields is None or node.left is None:
            node.queues = node.fields = node.left = None
            continue
        seen.add(state.incarnation)
        node.queues += 1
        node.fields += state.fields
        if is_left:
            node.left.append(str(partition))
    if any(node.faults for node in nodes):  # a node that does not answer may have the queue
        return nodes, Answers()
    gone = [
        str(partition)
        for partition, own in checkpoints.items()
        if any(not each.is_ended and each.incarnation not in seen for each in own)
    ]
    return nodes, Answers(gone, _named(errors))


def moved_partitions(client: QueueClient) -> Answers[Partition]:
    """Return the partitions with a queue on a node that they have left, which is not ended yet.

    Only while nodes are retiring. A queue whose database does not answer counts as not ended.
    """
    if not client.options.retiring:
        return Answers()
    checkpoints, errors = stored_checkpoints()
    moved = dict.fromkeys(partition for partition, *_, is_left in _queues(client, checkpoints) if is_left)
    return Answers(moved, _named(errors))


def _named(errors: Mapping[str, Exception]) -> dict[str, Exception]:
    return {f"database {using!r}": error for using, error in errors.items()}


def _queues(
    client: QueueClient, checkpoints: Mapping[Partition, Sequence[WriteBehindCheckpoint]]
) -> Iterator[tuple[Partition, int, QueueState | None, bool]]:
    """Yield each queue with the index of its node, and whether its partition has left it but not ended it.

    The state of a queue is None if its node did not return it.
    """
    partitions = list(dict.fromkeys([*checkpoints, *configured_partitions(client)]))
    for partition, queues in client.run(protocol.queue.queue_states(client.context, partitions)).items():
        ended = {each.incarnation for each in checkpoints.get(partition, ()) if each.is_ended}
        owner = client.context.ring.owner(partition.name)
        for node, state in queues.items():
            if isinstance(state, RingCacheError):
                yield partition, node, None, False
            else:
                is_ended = state.incarnation in ended and not state.fields
                yield partition, node, state, node != owner and not is_ended

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cachebackend.ring import SLOTS, Ring

NODES = st.lists(
    st.tuples(
        st.text("abcdefghij.:0123456789", min_size=1, max_size=12), st.sampled_from([1.0, 1.5, 2.0, 3.0])
    ),
    min_size=3,
    max_size=10,
    unique_by=lambda node: node[0],
)


@settings(max_examples=25, deadline=None)
@given(NODES)
def test_shares_and_moved_slots_are_bounded_for_any_names(nodes: list[tuple[str, float]]) -> None:
    """A node owns at most 1.03 of its share. A node that leaves moves its own slots and 1 % of the others."""
    ring = Ring(nodes)
    total = sum(ring.weights)
    assert all(
        slots <= 1.03 * SLOTS * weight / total
        for slots, weight in zip(ring.shares(), ring.weights, strict=True)
    )
    assert 0 <= ring.moved(Ring(nodes[1:])) - ring.shares()[0] <= SLOTS // 100

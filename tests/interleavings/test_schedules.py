"""No schedule of readers, writers and accidents serves a value older than an acknowledged write."""

from __future__ import annotations

import os

import pytest

from cachebackend.codec import Codec, tag_record
from cachebackend.node import Node
from cachebackend.protocol import FillOptions
from tests.interleavings.aside import AsideReader, AsideReaderThatGetsAgain, AsideReaderThatSetsTwice
from tests.interleavings.callers import OTHER, Expirer, Incrementer, Mover
from tests.interleavings.pages import (
    CrashingPageWriter,
    PageReader,
    PageScenario,
    PageWriter,
    Relay,
    RelayOfTwo,
)
from tests.interleavings.readers import GutterReader, KnowingReader, OldSnapshotReader, Reader, ReaderOfTwo
from tests.interleavings.scenario import Scenario, values
from tests.interleavings.search import explore, explore_all
from tests.interleavings.world import KEY, TAG
from tests.interleavings.writers import (
    Clearer,
    CrashingStrictStatement,
    CrashingStrictWriter,
    CrashingWriter,
    HastyWriter,
    PlainWriter,
    PlainWriterOfTwo,
    SoftWriter,
    StrictStatement,
    StrictWriter,
    Writer,
)

ACCIDENTS = (("lapse", 1), ("evict", 1), ("flush", 1))
FAILS = (("fail0", 1),)
LAPSE = (("lapse", 1),)
LOSE = (("lose", 1),)
RELAY = (("relay", 1),)
STALE = FillOptions(60_000, stale_ms=30_000)
TAGGED = FillOptions(60_000, tags=(b"tag",))
OLD = ((b"SET", KEY, b"0", b"PX", b"60000"),)
#: A version with a tag.
TAGGED_OLD = Codec("auto").encode(0, KEY, tags={TAG: bytes(16)})
TAG_OLD = (b"SET", TAG, tag_record(bytes(16)))

SCENARIOS = {
    "a reader, two writers": Scenario((Reader, Writer, Writer), OLD),
    "two readers, a writer, nothing cached": Scenario((Reader, Reader, Writer)),
    "two readers, a writer, accidents": Scenario((Reader, Reader, Writer), OLD, (("lapse", 1), ("evict", 1))),
    "a reader, a writer, every accident": Scenario((Reader, Writer), OLD, ACCIDENTS),
    "two readers, a writer that may crash": Scenario((Reader, Reader, CrashingWriter), OLD, RELAY),
    "two readers of an absent row, a writer that creates it": Scenario(
        (Reader, Reader, Writer), accidents=LAPSE, is_absent_at_first=True
    ),
    "a request that gets no reply: a reader of two, a writer": Scenario((ReaderOfTwo, Writer), (), LOSE),
    "a request that gets no reply: one process: two readers, a plain writer": Scenario(
        (Reader, Reader, PlainWriter), (), LOSE, is_one_process=True
    ),
    "strict: a reader, two writers": Scenario((Reader, StrictWriter, StrictWriter), OLD),
    "strict: a reader, a writer that may crash, accidents": Scenario(
        (Reader, CrashingStrictWriter), OLD, (("lapse", 1), ("evict", 1))
    ),
    "strict: a reader, two writers that may crash": Scenario(
        (Reader, CrashingStrictWriter, CrashingStrictWriter), OLD
    ),
    "strict: a quarantine of another program that never expires": Scenario(
        (Reader, StrictWriter), ((b"SET", KEY, b"Q" + bytes(16)),), FAILS
    ),
    "refresh: two readers, a writer": Scenario(
        (Reader, Reader, Writer), tuple(values(0, STALE)), fill_options=STALE
    ),
    "stale: two readers, a writer that softens": Scenario(
        (Reader, Reader, SoftWriter), tuple(values(0, STALE, fresh=True))
    ),
    "tags: two readers, a writer": Scenario((Reader, Reader, Writer), fill_options=TAGGED, by_tag=True),
    "tags: two readers, a writer, a value without the tag": Scenario(
        (Reader, Reader, Writer), OLD, fill_options=TAGGED, by_tag=True
    ),
    "tags: a reader, a writer, a version that is added to": Scenario(
        (Reader, Writer, Incrementer), (TAG_OLD, (b"SET", KEY, TAGGED_OLD)), fill_options=TAGGED, by_tag=True
    ),
    "tags: a reader, a writer, a version that is moved": Scenario(
        (Reader, Writer, Mover), (TAG_OLD, (b"SET", OTHER, TAGGED_OLD)), fill_options=TAGGED, by_tag=True
    ),
    "refresh: a reader, a writer, a version that is added to": Scenario(
        (Reader, Writer, Incrementer), tuple(values(0, STALE, fresh=True)), fill_options=STALE
    ),
    "a node that fails: a reader of two, a writer": Scenario((ReaderOfTwo, Writer), OLD, FAILS),
    "a node that fails: a reader of two, a writer, a gutter": Scenario(
        (ReaderOfTwo, Writer), OLD, FAILS, has_gutter=True
    ),
    "a node that fails: strict: a reader, a writer": Scenario((Reader, StrictWriter), OLD, FAILS),
    "a node that fails: strict: a reader of two, a statement": Scenario(
        (ReaderOfTwo, StrictStatement), OLD, FAILS + RELAY
    ),
    "a node that fails: one process: a reader of two, a plain writer": Scenario(
        (ReaderOfTwo, PlainWriter), OLD, FAILS, is_one_process=True
    ),
    "a node that fails: a reader, a plain writer of two": Scenario(
        (Reader, PlainWriterOfTwo), OLD, FAILS + RELAY
    ),
    "a node that fails: a reader, a clearer": Scenario((Reader, Clearer), OLD, FAILS),
    "a node that fails: a reader, more deletes than the replay limit": Scenario(
        (Reader, PlainWriter), OLD, FAILS, replay_limit=0
    ),
    "a gutter that fails: a reader, a writer": Scenario(
        (Reader, Writer), OLD, (("fail0", 1), ("fail1", 1)), has_gutter=True
    ),
    **{
        f"a ring that changes: {' and '.join(deploys)}": Scenario(
            (Reader, Reader, Writer), OLD, deploys=(deploys[0], deploys[0], deploys[1]), relay=deploys[1]
        )
        for deploys in (
            ("joining", "leaving"),
            ("leaving", "joining"),
            ("leaving", "leaving"),
            ("leaving", "cold"),
        )
    },
    "a ring that changes: a node that fails, a clearer": Scenario(
        (Reader, Clearer), OLD, FAILS, deploys=("leaving", "joining"), relay="leaving"
    ),
    "a ring that changes: a node that fails": Scenario(
        (Reader, Writer), OLD, FAILS, deploys=("leaving", "joining"), relay="leaving"
    ),
    "lease_on_get: a reader, a reader that loads under a lease, a writer": Scenario(
        (AsideReader, Reader, Writer), accidents=LAPSE
    ),
    "lease_on_get: two readers that get again, a writer": Scenario(
        (AsideReaderThatGetsAgain, AsideReaderThatGetsAgain, Writer)
    ),
    "lease_on_get: a reader that sets twice, a reader, a writer": Scenario(
        (AsideReaderThatSetsTwice, AsideReader, Writer)
    ),
    "a page: a reader, a writer": PageScenario((PageReader, PageWriter), OLD),
    "a page: a reader that has a copy of the row, a writer": PageScenario(
        (PageReader, PageWriter), OLD, has_copies=True
    ),
    "a page: a reader, a writer that is cut off from the row, the relay": PageScenario(
        (PageReader, PageWriter, Relay), OLD, is_cut_off=True
    ),
    "a page: a reader, a writer that may crash, the relay": PageScenario(
        (PageReader, CrashingPageWriter, Relay), OLD
    ),
    **{
        f"a page: the node of the {what} fails: a reader, a writer": PageScenario(
            (PageReader, PageWriter), OLD, accident
        )
        for what, accident in (("row", FAILS), ("tag", (("fail1", 1),)))
    },
}
#: The same with more actors or accidents. They take minutes, so they run only with ``EXPLORE=all``.
LARGER = {
    "a request that gets no reply: two readers, a writer": Scenario((Reader, Reader, Writer), (), LOSE),
    "a request that gets no reply: two readers, a writer, something cached": Scenario(
        (Reader, Reader, Writer), OLD, (("lose", 2),)
    ),
    "two readers, two writers": Scenario((Reader, Reader, Writer, Writer), OLD),
    "two readers, two writers, nothing cached": Scenario((Reader, Reader, Writer, Writer)),
    "two readers, a writer, every accident": Scenario((Reader, Reader, Writer), OLD, ACCIDENTS),
    "three readers, a writer that may crash": Scenario((Reader, Reader, Reader, CrashingWriter), OLD),
    "strict: two readers, two writers": Scenario((Reader, Reader, StrictWriter, StrictWriter), OLD),
    "strict: two readers, a writer that may crash": Scenario(
        (Reader, Reader, CrashingStrictWriter), OLD, (("lapse", 1), ("evict", 1))
    ),
    "refresh: two readers, two writers": Scenario(
        (Reader, Reader, Writer, Writer), tuple(values(0, STALE)), fill_options=STALE
    ),
    "a node that fails: two readers, a writer": Scenario((Reader, Reader, Writer), OLD, FAILS),
    "strict: a reader of two, a statement that may crash": Scenario(
        (ReaderOfTwo, CrashingStrictStatement), OLD, FAILS + RELAY
    ),
    "one process: a reader of two, a plain writer of two": Scenario(
        (ReaderOfTwo, PlainWriterOfTwo), OLD, FAILS + RELAY, is_one_process=True
    ),
    "a gutter that fails: a reader of two, a writer": Scenario(
        (ReaderOfTwo, Writer), OLD, (("fail0", 1), ("fail1", 1)), has_gutter=True
    ),
    "a ring that changes: nodes that fail": Scenario(
        (Reader, Writer), OLD, (("fail0", 1), ("fail1", 1)), deploys=("leaving", "joining"), relay="leaving"
    ),
    "a ring that changes: nodes that fail, a clearer": Scenario(
        (Reader, Clearer), OLD, (("fail0", 1), ("fail1", 1)), deploys=("leaving", "joining"), relay="leaving"
    ),
    "a ring that changes: strict, nodes that fail": Scenario(
        (Reader, StrictStatement),
        OLD,
        (("fail0", 1), ("fail1", 1), ("relay", 1)),
        deploys=("leaving", "joining"),
        relay="leaving",
    ),
    "a node that fails twice: a reader, a writer that may crash": Scenario(
        (ReaderOfTwo, CrashingWriter), OLD, (("fail0", 2),), has_gutter=True
    ),
    "a node that fails: two readers, a writer, a gutter": Scenario(
        (Reader, Reader, Writer), OLD, FAILS, has_gutter=True
    ),
    "a node that fails: strict: a reader, two writers, a gutter": Scenario(
        (Reader, StrictWriter, StrictWriter), OLD, FAILS, has_gutter=True
    ),
    "a node that fails: strict: a reader of two, a writer, a value that expires": Scenario(
        (ReaderOfTwo, StrictWriter, Expirer), (), FAILS
    ),
    "a node that fails twice: strict: a reader, a writer, a gutter": Scenario(
        (Reader, StrictWriter), OLD, (("fail0", 2), ("flush", 1)), has_gutter=True
    ),
    "tags: accidents": Scenario((Reader, Reader, Writer), (), ACCIDENTS, TAGGED, by_tag=True),
    "a page: two readers, a writer": PageScenario((PageReader, PageReader, PageWriter), OLD),
    "a page: a reader that has a copy, a writer that is cut off, the relay twice": PageScenario(
        (PageReader, PageWriter, RelayOfTwo), OLD, has_copies=True, is_cut_off=True
    ),
    "a page: two readers, a writer that is cut off, the relay": PageScenario(
        (PageReader, PageReader, PageWriter, Relay), OLD, is_cut_off=True
    ),
    "a page: the node of the row fails: a reader, a writer, the relay": PageScenario(
        (PageReader, PageWriter, Relay), OLD, FAILS
    ),
}
#: Readers that know of a value read the key before they ask for a lease.
SCENARIOS |= {
    "a known value: a reader, two writers": Scenario((KnowingReader, Writer, Writer), OLD),
    "a known value: two readers, a writer": Scenario((KnowingReader, KnowingReader, Writer), OLD),
    "a known value: strict: two readers, a writer": Scenario(
        (KnowingReader, KnowingReader, StrictWriter), OLD
    ),
    "a known value: refresh: two readers, a writer": Scenario(
        (KnowingReader, KnowingReader, Writer), tuple(values(0, STALE)), fill_options=STALE
    ),
    "a known value: a node that fails: a reader, a writer": Scenario((KnowingReader, Writer), OLD, FAILS),
}
if os.environ.get("EXPLORE") == "all":
    SCENARIOS |= LARGER
#: The scenarios that are explored a second time, with readers that call the client's own methods.
DIRECT = {
    "a reader, two writers",
    "two readers, a writer, nothing cached",
    "two readers of an absent row, a writer that creates it",
    "a request that gets no reply: a reader of two, a writer",
    "strict: a reader, two writers",
    "refresh: two readers, a writer",
    "stale: two readers, a writer that softens",
    "a node that fails: a reader of two, a writer",
    "a ring that changes: leaving and leaving",
}
#: Scenarios that are wrong: they prove that the explorer can find a mistake.
BROKEN = {
    "a delete before the commit": Scenario((Reader, HastyWriter), OLD),
    "a reader in an old snapshot": Scenario((OldSnapshotReader, Writer), OLD),
    "a strict reader in the gutter": Scenario((GutterReader, StrictWriter), OLD, FAILS, has_gutter=True),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_stores_or_serves_a_stale_value(
    node: Node, spare: Node, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every order of moves; the counts prove that schedules were explored."""
    with capsys.disabled():
        explored = explore_all((node, spare), name, SCENARIOS[name])
    if name in DIRECT or SCENARIOS.keys() & LARGER.keys():
        # A client's own method takes the same steps as the generator: the same states and schedules
        assert explore((node, spare), SCENARIOS[name].read_directly()) == explored


@pytest.mark.parametrize("name", BROKEN)
def test_the_explorer_finds_known_mistakes(node: Node, spare: Node, name: str) -> None:
    """Each of these orders is forbidden, because it serves a stale value."""
    assert explore((node, spare), BROKEN[name], stop_at_first=True).wrong

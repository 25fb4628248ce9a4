"""The lease protocol, stepped by hand: the commands, their order, and the effect of each reply."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.codec import RELEASED, Codec, Refresh, claimed, stored_of
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Ask, Effect, Load, Operation, ScriptCall, Send, Sleep
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.loader import loader_block
from cachebackend.node.translate import reply_error
from cachebackend.options import RingOptions
from cachebackend.protocol import MISSING, Context, FillOptions, Unfilled, get, get_or_load, get_or_load_many
from cachebackend.protocol.cache.lease import MAX_PERIODS
from cachebackend.protocol.cache.tags import KNOWN_KEYS, KNOWN_TAGS, remember_tags
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import DOWN, SENT_AND_LOST, StillClock

KEY = b"k"
VALUE = Codec("auto").encode("value", KEY)
LEASE_OF_ANOTHER = b"L" + b"a" * 16
QUARANTINE = b"Q" + b"a" * 16


@pytest.fixture
def clock() -> StillClock:
    """The clock of the test."""
    return StillClock()


@pytest.fixture
def context(clock: StillClock) -> Context:
    """A ring of one node."""
    options = RingOptions.read("redis://unused?name=a", {"early_refresh_beta": 0}, "CACHES")
    return Context(Ring([("a", 1.0)]), Codec("auto"), options, clock, Counters(Counts))


def load() -> str:
    return "loaded"


def sent(effect: Effect) -> list[tuple[Any, ...]]:
    assert isinstance(effect, Send)
    return [tuple(command) for _, command in effect.requests]


def loads_under_a_lease(effect: Effect) -> bool:
    return isinstance(effect, Load) and effect.loader is load and len(effect.tokens) == 1


def result_of(operation: Operation[Any], reply: Any) -> Any:
    with pytest.raises(StopIteration) as end:
        operation.send(reply)
    return end.value.value


def lease_command(operation: Operation[Any]) -> tuple[Any, ...]:
    """Return the first command: it returns the value, or acquires the lease if there is none."""
    [command] = sent(next(operation))
    assert command[:2] == (b"SET", KEY)
    assert command[3:5] == (b"NX", b"GET")
    return command


def test_a_hit_is_one_command(context: Context) -> None:
    """The command returns the value or acquires the lease; a plain get is a GET."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    assert result_of(operation, [VALUE]) == "value"
    operation = get(context, KEY)
    assert sent(next(operation)) == [(b"GET", KEY)]
    assert result_of(operation, [VALUE]) == "value"
    total = context.counters.total()
    assert (total.hits, total.leases_granted) == (2, 0)


REFUSALS = [reply_error("OOM command not allowed"), reply_error("NOPERM no permission to run 'set'")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_a_node_that_refuses_the_lease_is_asked_for_the_value(context: Context, refusal: Any) -> None:
    """A full node, a read-only node or a read-only user: a value that is stored there is still a hit."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    assert sent(operation.send([refusal])) == [(b"GET", KEY)]
    assert result_of(operation, [VALUE]) == "value"
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    operation.send([refusal])
    assert operation.send([None]) == Load(load)
    assert result_of(operation, "loaded") == "loaded"


def test_a_miss_takes_the_lease_then_loads_then_fills_by_compare_and_set(context: Context) -> None:
    """In exactly this order; the fill compares with the token that was acquired."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    command = lease_command(operation)
    lease = command[2]
    assert command == (b"SET", KEY, lease, b"NX", b"GET", b"PX", b"5000")
    assert loads_under_a_lease(operation.send([None]))
    filled = Codec("auto").encode("loaded", KEY)
    assert sent(operation.send("loaded")) == [(b"SET", KEY, filled, b"IFEQ", lease, b"PX", b"1000")]
    assert result_of(operation, [b"OK"]) == "loaded"


def test_a_refused_fill_costs_the_caller_nothing_and_is_counted(context: Context) -> None:
    """The key was changed in the meantime: the value is returned, and not cached."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    operation.send([None])
    operation.send("loaded")
    assert result_of(operation, [None]) == "loaded"
    assert context.counters.total().stale_sets_refused == 1


def test_a_reader_that_meets_a_lease_waits_for_the_value(context: Context) -> None:
    """It reads again after each pause; its loader never runs."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    command = lease_command(operation)
    pauses = []
    effect = operation.send([LEASE_OF_ANOTHER])
    for _ in range(5):
        assert isinstance(effect, Sleep)
        pauses.append(effect.seconds)
        assert sent(operation.send(None)) == [command]
        effect = operation.send([LEASE_OF_ANOTHER])
    assert pauses == [0.005, 0.01, 0.02, 0.04, 0.05]
    operation.send(None)
    assert result_of(operation, [VALUE]) == "value"
    assert context.counters.total().lease_waits == 1


def test_a_waiting_reader_acquires_an_expired_lease(context: Context) -> None:
    """The holder died: the next read finds no record, which grants the lease."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    operation.send([LEASE_OF_ANOTHER])
    operation.send(None)
    assert loads_under_a_lease(operation.send([None]))


def test_a_reader_waits_at_most_one_lease_timeout(context: Context, clock: StillClock) -> None:
    """Then it replaces the lease: its holder is too late, or another program has stored it, for ever."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    operation.send([LEASE_OF_ANOTHER])
    clock.at += 5.0
    operation.send(None)
    assert sent(operation.send([LEASE_OF_ANOTHER])) == [
        (b"SET", KEY, lease, b"IFEQ", LEASE_OF_ANOTHER, b"PX", b"5000")
    ]
    assert loads_under_a_lease(operation.send([b"OK"]))


def test_a_new_lease_holder_starts_a_new_wait(context: Context, clock: StillClock) -> None:
    """The first holder died or was invalidated; the present holder is loading."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    operation.send([LEASE_OF_ANOTHER])
    for holder in (b"b", b"c", b"d"):
        clock.at += 4.0
        operation.send(None)
        assert isinstance(operation.send([b"L" + holder * 16]), Sleep)
    clock.at += 5.0
    operation.send(None)
    [command] = sent(operation.send([b"L" + b"d" * 16]))
    assert command[3:5] == (b"IFEQ", b"L" + b"d" * 16)


def test_a_reader_that_meets_one_new_holder_after_the_other_loads_without_a_lease(
    context: Context, clock: StillClock
) -> None:
    """After three periods; no node, and no herd of writers, makes it wait longer."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    waits = 0
    effect: Effect = operation.send([LEASE_OF_ANOTHER])
    while isinstance(effect, Sleep):
        waits += 1
        clock.at += 1.0
        operation.send(None)
        effect = operation.send([b"La%015d" % waits])
    assert waits == MAX_PERIODS * 5
    assert effect == Load(load)
    assert result_of(operation, "loaded") == "loaded"


def test_without_a_lease_the_value_is_loaded_and_not_filled(context: Context) -> None:
    """If the node is down; it is not asked again."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    assert operation.send([NodeUnavailableError("down")]) == Load(load)
    assert result_of(operation, "loaded") == "loaded"


@pytest.mark.parametrize("reply", [QUARANTINE, RELEASED], ids=repr)
@pytest.mark.parametrize("answer", [0, NodeUnavailableError("down")], ids=repr)
def test_a_record_without_a_value_is_deleted_if_it_never_expires(
    context: Context, reply: bytes, answer: Any
) -> None:
    """The value is loaded without a lease first; the answer of the node changes nothing."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(operation)
    assert operation.send([reply]) == Load(load)
    effect = operation.send("loaded")
    assert isinstance(effect, Send)
    [(_, call)] = effect.requests
    assert isinstance(call, ScriptCall)
    assert (call.script.name, call[3:]) == ("delete_endless", (KEY,))
    assert result_of(operation, [answer]) == "loaded"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_loader_that_fails_releases_its_lease_at_once(context: Context, error: BaseException) -> None:
    """By compare-and-delete, so that it cannot delete the lease of another reader."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    operation.send([None])
    effect = operation.throw(error)
    assert isinstance(effect, Send)
    [(_, call)] = effect.requests
    assert isinstance(call, ScriptCall)
    assert call.script.name == "release"
    assert call[3:] == (KEY, lease)
    with pytest.raises(type(error)):
        operation.send([1])


@pytest.mark.parametrize(("value", "ttl_ms"), [(MISSING, 1000), ("loaded", 0)], ids=["missing", "no time"])
def test_a_value_that_must_not_be_stored_releases_the_lease(
    context: Context, value: Any, ttl_ms: int
) -> None:
    """By a lease without a token, with which all readers that wait for the lease load at the same time."""
    operation = get_or_load(context, KEY, load, FillOptions(ttl_ms))
    lease = lease_command(operation)[2]
    operation.send([None])
    [command] = sent(operation.send(value))
    assert command[:6] == (b"SET", KEY, RELEASED, b"IFEQ", lease, b"PX")
    assert result_of(operation, [b"OK"]) is value


def test_a_value_that_is_too_long_is_returned_and_not_stored(context: Context) -> None:
    """Its lease is released, as of any value that must not be stored."""
    context.codec = Codec("auto", max_bytes=10)
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    operation.send([None])
    [command] = sent(operation.send("x" * 20))
    assert command[:6] == (b"SET", KEY, RELEASED, b"IFEQ", lease, b"PX")
    assert result_of(operation, [b"OK"]) == "x" * 20


def test_a_refused_release_is_not_counted_as_a_refused_fill(context: Context) -> None:
    """There was nothing to fill."""
    operation = get_or_load(context, KEY, load, FillOptions(0))
    lease_command(operation)
    operation.send([None])
    operation.send("loaded")
    assert result_of(operation, [None]) == "loaded"
    assert context.counters.total().stale_sets_refused == 0


def test_a_loader_that_reads_its_own_key_does_not_wait_for_its_own_lease(context: Context) -> None:
    """It loads without a lease."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    inner = get_or_load(context, KEY, load, FillOptions(1000))
    lease_command(inner)
    with loader_block((b"another",)), loader_block((lease[1:],)):
        assert inner.send([lease]) == Load(load)


class TestOrphans:
    """Leases that this process has given up."""

    def give_up(self, context: Context) -> bytes:
        """Ask for a lease, get no reply, and return its record."""
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        lease: bytes = lease_command(operation)[2]
        assert operation.send([SENT_AND_LOST]) == Load(load)
        return lease

    def test_a_request_that_got_no_reply_is_given_up(self, context: Context) -> None:
        """Its node may hold the lease; a request that was not sent has left nothing."""
        lease = self.give_up(context)
        assert context.orphans.of(0) == [(KEY, lease)]
        operation = get_or_load(context, b"other", load, FillOptions(1000))
        next(operation)
        operation.send([DOWN])
        assert len(context.orphans.of(0)) == 1

    def test_an_orphan_is_replaced_by_a_lease_with_another_token(self, context: Context) -> None:
        """The reader that meets it does not wait."""
        orphan = self.give_up(context)
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        lease = lease_command(operation)[2]
        assert sent(operation.send([orphan])) == [(b"SET", KEY, lease, b"IFEQ", orphan, b"PX", b"5000")]
        assert loads_under_a_lease(operation.send([b"OK"]))
        assert orphan not in context.orphans

    @pytest.mark.parametrize("step", ["fill", "release"])
    def test_a_lease_whose_end_got_no_reply_is_given_up(self, context: Context, step: str) -> None:
        """The node may hold it still."""
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        lease = lease_command(operation)[2]
        operation.send([None])
        if step == "fill":
            operation.send("loaded")
            assert result_of(operation, [DOWN]) == "loaded"
        else:
            operation.throw(ValueError())
            with pytest.raises(ValueError, match="^$"):
                operation.send([DOWN])
        assert context.orphans.of(0) == [(KEY, lease)]

    @pytest.mark.parametrize("steps", [0, 1, 2])
    def test_a_read_that_is_cancelled_gives_its_lease_up(self, context: Context, steps: int) -> None:
        """While it asks for the lease, while it loads (and is closed), and while it fills."""
        given_up: list[int] = []
        context.on_orphan = given_up.append
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        lease = lease_command(operation)[2]
        for reply in ([None], "loaded")[:steps]:
            operation.send(reply)
        if steps == 1:
            operation.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                operation.throw(KeyboardInterrupt())
        assert context.orphans.of(0) == [(KEY, lease)]
        assert given_up == [0]

    def test_a_claim_is_not_given_up(self, context: Context, clock: StillClock) -> None:
        """No reader waits for it."""
        record = Codec("auto").encode("old", KEY, Refresh(clock.at - 1, 1.0))
        operation = get_or_load(context, KEY, load, FillOptions(1000, stale_ms=9000))
        lease_command(operation)
        operation.send([record])
        assert result_of(operation, [SENT_AND_LOST]) == "old"
        assert context.orphans.of(0) == []


def test_a_node_without_ifeq_is_filled_by_script(context: Context) -> None:
    """IFEQ is tried once for the node; the first fill is not lost."""
    for expected in ([b"SET", b"EVALSHA"], [b"EVALSHA"]):
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        lease_command(operation)
        operation.send([None])
        effect = operation.send("loaded")
        used = [sent(effect)[0][0]]
        if used == [b"SET"]:
            effect = operation.send([NodeReplyError("ERR syntax error")])
            used.append(sent(effect)[0][0])
        assert used == expected
        assert result_of(operation, [b"OK"]) == "loaded"


def test_a_lease_of_an_earlier_try_is_recognized(context: Context) -> None:
    """The reply was lost, but the command arrived: the record is our own token."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    assert loads_under_a_lease(operation.send([lease]))


def test_many_keys_take_one_scatter_each_and_one_load(context: Context) -> None:
    """One for the reads, one for the leases, one for the fills; the loader gets the names it must load."""
    requested: list[list[str]] = []

    def loader(names: list[str]) -> dict[str, str]:
        requested.append(names)
        return {"b": "B"}

    operation = get_or_load_many(context, {"a": b"1", "b": b"2", "c": b"3"}, loader, FillOptions(1000))
    assert sent(next(operation)) == [(b"MGET", b"1", b"2", b"3")]
    leases = sent(operation.send([[VALUE, None, None]]))
    assert [command[:2] for command in leases] == [(b"SET", b"2"), (b"SET", b"3")]
    effect = operation.send([None, None])
    assert isinstance(effect, Load)
    loaded = effect.loader()
    assert requested == [["b", "c"]]
    filled = sent(operation.send(loaded))
    assert [command[:2] for command in filled] == [(b"SET", b"2"), (b"SET", b"3")]
    assert filled[1][2] == RELEASED
    assert result_of(operation, [b"OK", b"OK"]) == {"a": "value", "b": "B"}


def test_many_keys_wait_only_for_the_keys_that_others_load(context: Context) -> None:
    """Keys with an acquired lease are loaded and filled first; then one pause, and the rest is read again."""
    operation = get_or_load_many(
        context, {"a": b"1", "b": b"2"}, lambda names: dict.fromkeys(names, "x"), FillOptions(1000)
    )
    next(operation)
    operation.send([[None, None]])
    effect = operation.send([None, LEASE_OF_ANOTHER])
    assert isinstance(effect, Load)
    operation.send(effect.loader())
    assert isinstance(operation.send([b"OK"]), Sleep)
    assert [command[1] for command in sent(operation.send(None))] == [b"2"]
    assert result_of(operation, [VALUE]) == {"a": "x", "b": "value"}


@pytest.mark.parametrize("found", [b"garbage", b"Lx", b"L" + b"x" * 17, b"Q", b"Q" + b"x" * 17], ids=repr)
def test_bytes_of_no_process_of_the_project_are_replaced_by_the_lease(context: Context, found: bytes) -> None:
    """If they did not change: an unreadable record must not prevent its key from being cached for ever."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    assert sent(operation.send([found])) == [(b"SET", KEY, lease, b"IFEQ", found, b"PX", b"5000")]
    assert loads_under_a_lease(operation.send([b"OK"]))


def test_a_value_that_must_not_be_stored_releases_its_lease(context: Context) -> None:
    """The caller gets the value; of several keys none is stored."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = lease_command(operation)[2]
    operation.send([None])
    [release] = sent(operation.send(Unfilled("loaded")))
    assert release[3:] == (KEY, lease)
    assert result_of(operation, [1]) == "loaded"
    many = get_or_load_many(context, {"a": b"1", "b": b"2"}, lambda _: {}, FillOptions(1000))
    next(many)
    many.send([[None, None]])
    many.send([None, None])
    released = sent(many.send(Unfilled({"a": "x"})))
    assert [command[3] for command in released] == [b"1", b"2"]
    assert result_of(many, [1, 1]) == {"a": "x"}


def test_a_reader_that_could_not_store_asks_before_it_waits(context: Context) -> None:
    """And loads at once, without a lease. A reader that could store waits."""

    async def unused() -> bool:
        return False

    may_fill = Ask(lambda: False, unused)
    for answer in (False, True):
        operation = get_or_load(context, KEY, load, FillOptions(1000, may_fill=may_fill))
        lease_command(operation)
        assert operation.send([LEASE_OF_ANOTHER]) is may_fill
        if answer:
            assert isinstance(operation.send(True), Sleep)
        else:
            assert operation.send(False) == Load(load)
            assert result_of(operation, "loaded") == "loaded"


class TestRefresh:
    """A value past its ``fresh_until`` is loaded again by one reader, and served to the others meanwhile."""

    FILL_OPTIONS = FillOptions(60_000, stale_ms=30_000)

    @pytest.fixture
    def loaded(self, context: Context, clock: StillClock) -> bytes:
        """The record of a value whose load took two seconds, fresh for a minute from now."""
        return context.codec.encode("old", KEY, Refresh(clock.at + 60, 2.0))

    def test_a_loaded_value_is_stored_with_its_refresh_time(
        self, context: Context, clock: StillClock
    ) -> None:
        """With the duration of its load and no claim; the key's TTL is longer by the stale time."""
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        lease_command(operation)
        operation.send([None])
        clock.at += 2
        [command] = sent(operation.send("loaded"))
        assert command[5:] == (b"PX", b"90000")
        assert stored_of(command[2]).refresh == Refresh(clock.at + 60, 2.0)

    def test_one_reader_claims_a_stale_value_and_the_others_are_served(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """The claim is a compare-and-set that keeps the time to live; the loser does not wait."""
        clock.at += 61
        winner, loser = (get_or_load(context, KEY, load, self.FILL_OPTIONS) for _ in range(2))
        next(winner)
        next(loser)
        [claim] = sent(winner.send([loaded]))
        claimed_record = claimed(loaded, b"%016d" % 1, clock.at + 5)
        assert claim == (b"SET", KEY, claimed_record, b"IFEQ", loaded, b"KEEPTTL")
        loser.send([loaded])
        assert result_of(loser, [None]) == "old"
        assert loads_under_a_lease(winner.send([b"OK"]))
        [fill] = sent(winner.send("new"))
        assert fill[3:5] == (b"IFEQ", claimed_record)
        assert result_of(winner, [b"OK"]) == "new"
        assert context.counters.total().stale_hits == 2

    def test_a_claimed_value_is_served_without_another_claim(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """Until the deadline of the claim; then another reader may claim it."""
        clock.at += 61
        claimed_record = claimed(loaded, b"x" * 16, clock.at + 5)
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        assert result_of(operation, [claimed_record]) == "old"
        clock.at += 5
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        assert sent(operation.send([claimed_record]))[0][3:5] == (b"IFEQ", claimed_record)

    def test_a_refresh_that_fails_restores_the_unclaimed_record(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """The old value is still served, and the next reader may try."""
        clock.at += 61
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        claimed_record = sent(operation.send([loaded]))[0][2]
        operation.send([b"OK"])
        effect = operation.throw(ValueError("no"))
        assert sent(effect) == [(b"SET", KEY, loaded, b"IFEQ", claimed_record, b"KEEPTTL")]
        with pytest.raises(ValueError, match="no"):
            operation.send([b"OK"])

    def test_a_reader_that_allows_no_stale_value_replaces_it_by_its_lease(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """By compare-and-set, so that a value filled in the meantime is not lost."""
        clock.at += 61
        operation = get_or_load(context, KEY, load, FillOptions(60_000))
        lease = lease_command(operation)[2]
        assert sent(operation.send([loaded])) == [(b"SET", KEY, lease, b"IFEQ", loaded, b"PX", b"5000")]
        effect = operation.send([None])
        assert sent(effect)[0][3:5] == (b"NX", b"GET")

    def test_a_refresh_that_must_not_be_stored_restores_the_unclaimed_record(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """The old value is still served to others, and the next reader may refresh it."""
        clock.at += 61
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        claimed_record = sent(operation.send([loaded]))[0][2]
        operation.send([b"OK"])
        effect = operation.send(Unfilled("new"))
        assert sent(effect) == [(b"SET", KEY, loaded, b"IFEQ", claimed_record, b"KEEPTTL")]
        assert result_of(operation, [b"OK"]) == "new"

    @pytest.mark.parametrize(("before", "due"), [(1.5, False), (1.3, True)])
    def test_it_is_loaded_early_by_the_formula(
        self, clock: StillClock, loaded: bytes, before: float, due: bool
    ) -> None:
        """``now - delta * beta * ln(random()) >= fresh_until``: here 2.0 * 1.0 * ln 2 = 1.386 s early."""
        options = RingOptions.read("redis://unused?name=a", {}, "CACHES")
        context = Context(Ring([("a", 1.0)]), Codec("auto"), options, clock, Counters(Counts))
        clock.at += 60 - before
        operation = get_or_load(context, KEY, load, FillOptions(60_000))
        next(operation)
        if due:
            assert sent(operation.send([loaded]))[0][3] == b"IFEQ"
        else:
            assert result_of(operation, [loaded]) == "old"


class TestTags:
    """A value is stored with the tokens that its tags had when its load began."""

    FILL_OPTIONS = FillOptions(60_000, tags=(b"t",))

    def test_tag_tokens_are_read_with_the_lease(self, context: Context) -> None:
        """In one scatter, before the load."""
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        lease, read = sent(next(operation))
        assert read == (b"MGET", b"t")
        assert loads_under_a_lease(operation.send([None, [b"T" + b"o" * 16]]))
        [fill] = sent(operation.send("loaded"))
        assert stored_of(fill[2]).tags == {b"t": b"o" * 16}
        assert fill[4] == lease[2]

    @pytest.mark.parametrize("other", [None, b"T" + b"o" * 16], ids=repr)
    def test_a_missing_token_is_created_before_the_load(self, context: Context, other: bytes | None) -> None:
        """If another reader has created it meanwhile, its token is taken."""
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        [tag] = sent(operation.send([None, [None]]))
        assert (tag[0], tag[1], tag[2][:1], *tag[3:5]) == (b"SET", b"t", b"T", b"NX", b"GET")
        assert loads_under_a_lease(operation.send([other]))
        [fill] = sent(operation.send("loaded"))
        assert stored_of(fill[2]).tags == {b"t": (other or tag[2])[1:]}

    def test_the_lease_is_released_if_the_reader_is_interrupted_while_a_token_is_created(
        self, context: Context
    ) -> None:
        """Nothing was loaded, so nothing is filled."""
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        [lease, _] = sent(next(operation))
        operation.send([None, [None]])
        [release] = sent(operation.throw(KeyboardInterrupt()))
        assert lease[2] in release
        with pytest.raises(KeyboardInterrupt):
            operation.send([1])

    @pytest.mark.parametrize("token", [b"T" + b"x" * 16, None, NodeUnavailableError("down")], ids=repr)
    def test_a_value_with_another_tag_token_is_a_miss_and_replaced(
        self, context: Context, token: Any
    ) -> None:
        """Whether the tag has another token, no token, or a node that is down."""
        record = context.codec.encode("old", KEY, tags={b"t": b"o" * 16})
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        effect = operation.send([record, token if isinstance(token, Exception) else [token]])
        assert sent(effect)[0][3:5] == (b"IFEQ", record)

    def test_a_plain_get_reads_the_tag_tokens_of_the_value(self, context: Context) -> None:
        """In a second scatter, and only for values with tags."""
        record = context.codec.encode("value", KEY, tags={b"t": b"o" * 16})
        for token, expected in ((b"T" + b"o" * 16, "value"), (b"T" + b"n" * 16, None), (None, None)):
            context.known_tags.clear()
            operation = get(context, KEY)
            next(operation)
            assert sent(operation.send([record])) == [(b"MGET", b"t")]
            assert result_of(operation, [[token]]) == expected

    def test_a_get_reads_the_tokens_of_known_tags_with_the_value(self, context: Context) -> None:
        """It knows the tags that the value had when this process last read it; those of others come after."""
        tokens = {b"t": b"o" * 16, b"u": b"p" * 16}
        records = [
            context.codec.encode("value", KEY, tags={name: tokens[name] for name in names})
            for names in ((b"t",), (b"t", b"u"))
        ]
        operation = get(context, KEY)
        next(operation)
        operation.send([records[0]])
        assert result_of(operation, [[b"T" + tokens[b"t"]]]) == "value"

        operation = get(context, KEY)
        assert sent(next(operation)) == [(b"GET", KEY), (b"MGET", b"t")]
        assert sent(operation.send([records[1], [b"T" + tokens[b"t"]]])) == [(b"MGET", b"u")]
        assert result_of(operation, [[b"T" + tokens[b"u"]]]) == "value"

        operation = get(context, KEY)
        assert sent(next(operation)) == [(b"GET", KEY), (b"MGET", b"t", b"u")]
        assert result_of(operation, [records[1], [b"T" + tokens[b"t"], None]]) is None

    def test_the_tags_of_a_value_that_has_none_any_more_are_forgotten(self, context: Context) -> None:
        """Its reads take one command again."""
        context.known_tags[KEY] = (b"t",)
        operation = get(context, KEY)
        next(operation)
        assert result_of(operation, [context.codec.encode("plain", KEY), [None]]) == "plain"
        assert KEY not in context.known_tags

    def test_the_tags_of_few_keys_are_remembered(self, context: Context) -> None:
        """And no tags of a value that has many of them, so that they take little memory."""
        for number in range(KNOWN_KEYS + 1):
            remember_tags(context, b"%d" % number, [b"t"])
        assert len(context.known_tags) <= KNOWN_KEYS
        remember_tags(context, KEY, [b"%d" % number for number in range(KNOWN_TAGS + 1)])
        assert KEY not in context.known_tags

    def test_a_value_is_not_stored_if_the_token_of_a_tag_is_unknown(self, context: Context) -> None:
        """Nothing could invalidate it."""
        operation = get_or_load(context, KEY, load, self.FILL_OPTIONS)
        next(operation)
        operation.send([None, NodeUnavailableError("down")])
        assert loads_under_a_lease(operation.send([NodeUnavailableError("down")]))
        assert sent(operation.send("loaded"))[0][2] == RELEASED

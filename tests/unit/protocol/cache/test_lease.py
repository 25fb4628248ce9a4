"""The lease protocol, stepped by hand: what it sends, in what order, and what it makes of each reply."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.codec import Codec, Refresh, claimed, stored_of
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Effect, Load, Operation, ScriptCall, Send, Sleep
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.node.translate import reply_error
from cachebackend.options import RingOptions
from cachebackend.protocol import MISSING, Context, FillOptions, get, get_or_load, get_or_load_many
from cachebackend.ring import Ring

KEY = b"k"
VALUE = Codec("auto").encode("value")
LEASE_OF_ANOTHER = b"L" + b"a" * 16
QUARANTINE = b"Q" + b"a" * 16


class StillClock:
    """A clock that moves only when it is told; tokens are numbered."""

    def __init__(self) -> None:
        self.at, self.tokens = 1000.0, 0

    def now(self) -> float:
        return self.at

    monotonic = now

    def random(self) -> float:
        return 0.5

    def token(self) -> bytes:
        self.tokens += 1
        return b"%016d" % self.tokens


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


def result_of(operation: Operation[Any], reply: Any) -> Any:
    with pytest.raises(StopIteration) as end:
        operation.send(reply)
    return end.value.value


def at_the_lease(operation: Operation[Any]) -> tuple[Any, ...]:
    """Return the first command: it asks for the value, or else takes the lease."""
    [command] = sent(next(operation))
    assert command[:2] == (b"SET", KEY)
    assert command[3:5] == (b"NX", b"GET")
    return command


def test_a_hit_is_one_command(context: Context) -> None:
    """It finds the value or takes the lease; a plain get is a GET."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    assert result_of(operation, [VALUE]) == "value"
    operation = get(context, KEY)
    assert sent(next(operation)) == [(b"GET", KEY)]
    assert result_of(operation, [VALUE]) == "value"
    total = context.counters.total()
    assert (total.hits, total.leases_granted) == (2, 0)


REFUSALS = [reply_error("OOM command not allowed"), reply_error("NOPERM no permission to run 'set'")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_a_node_that_gives_no_leases_is_asked_for_the_value(context: Context, refusal: Any) -> None:
    """A full, a read-only node, a user who may only read: what stands there is a hit all the same."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    assert sent(operation.send([refusal])) == [(b"GET", KEY)]
    assert result_of(operation, [VALUE]) == "value"
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    operation.send([refusal])
    assert operation.send([None]) == Load(load)
    assert result_of(operation, "loaded") == "loaded"


def test_a_miss_takes_the_lease_then_loads_then_fills_by_compare_and_set(context: Context) -> None:
    """In this order and no other; the fill names the token that was taken."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    command = at_the_lease(operation)
    lease = command[2]
    assert command == (b"SET", KEY, lease, b"NX", b"GET", b"PX", 5000)
    assert operation.send([None]) == Load(load)
    filled = Codec("auto").encode("loaded")
    assert sent(operation.send("loaded")) == [(b"SET", KEY, filled, b"IFEQ", lease, b"PX", 1000)]
    assert result_of(operation, [b"OK"]) == "loaded"


def test_a_refused_fill_costs_the_caller_nothing_and_is_counted(context: Context) -> None:
    """Somebody changed the key meanwhile: the value is returned, and not cached."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    operation.send([None])
    operation.send("loaded")
    assert result_of(operation, [None]) == "loaded"
    assert context.counters.total().stale_sets_refused == 1


def test_who_finds_a_lease_waits_and_takes_the_value(context: Context) -> None:
    """It looks again after a pause; its loader never runs."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    command = at_the_lease(operation)
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


def test_a_waiter_takes_a_lease_that_lapsed(context: Context) -> None:
    """The holder died: the next look finds nothing, which grants the lease."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    operation.send([LEASE_OF_ANOTHER])
    operation.send(None)
    assert operation.send([None]) == Load(load)


def test_nobody_waits_longer_than_a_lease_period(context: Context, clock: StillClock) -> None:
    """Then it loads for itself, and fills nothing."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    operation.send([LEASE_OF_ANOTHER])
    clock.at += 5.0
    operation.send(None)
    assert operation.send([LEASE_OF_ANOTHER]) == Load(load)
    assert result_of(operation, "loaded") == "loaded"


def test_another_holder_is_another_period_to_wait(context: Context, clock: StillClock) -> None:
    """The first one died or was invalidated; who holds the lease now is loading."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    operation.send([LEASE_OF_ANOTHER])
    for holder in (b"b", b"c", b"d"):
        clock.at += 4.0
        operation.send(None)
        assert isinstance(operation.send([b"L" + holder * 16]), Sleep)
    clock.at += 5.0
    operation.send(None)
    assert operation.send([b"L" + b"d" * 16]) == Load(load)


@pytest.mark.parametrize("standing", [QUARANTINE, NodeUnavailableError("down")], ids=repr)
def test_where_no_lease_can_be_had_the_value_is_loaded_and_not_filled(
    context: Context, standing: Any
) -> None:
    """A quarantine, a node that is away: it is not asked twice."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    at_the_lease(operation)
    assert operation.send([standing]) == Load(load)
    assert result_of(operation, "loaded") == "loaded"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_loader_that_fails_gives_its_lease_back_at_once(context: Context, error: BaseException) -> None:
    """By compare-and-delete, so that it cannot take another's."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = at_the_lease(operation)[2]
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
def test_what_is_not_to_be_kept_gives_the_lease_back(context: Context, value: Any, ttl_ms: int) -> None:
    """The next reader need not wait for it to lapse."""
    operation = get_or_load(context, KEY, load, FillOptions(ttl_ms))
    at_the_lease(operation)
    operation.send([None])
    [command] = sent(operation.send(value))
    assert command[0] == b"EVALSHA"
    assert result_of(operation, [1]) is value


def test_a_node_without_ifeq_is_filled_by_script_from_then_on(context: Context) -> None:
    """It is asked once; the first fill is not lost."""
    for expected in ([b"SET", b"EVALSHA"], [b"EVALSHA"]):
        operation = get_or_load(context, KEY, load, FillOptions(1000))
        at_the_lease(operation)
        operation.send([None])
        effect = operation.send("loaded")
        used = [sent(effect)[0][0]]
        if used == [b"SET"]:
            effect = operation.send([NodeReplyError("ERR syntax error")])
            used.append(sent(effect)[0][0])
        assert used == expected
        assert result_of(operation, [b"OK"]) == "loaded"


def test_a_lease_that_we_hold_by_an_earlier_try_is_ours(context: Context) -> None:
    """The reply was lost, the command was not: our own token stands."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = at_the_lease(operation)[2]
    assert operation.send([lease]) == Load(load)


def test_many_keys_take_one_scatter_each_and_one_load(context: Context) -> None:
    """One for the reads, one for the leases, one for the fills; the loader gets the names it must load."""
    asked: list[list[str]] = []

    def loader(names: list[str]) -> dict[str, str]:
        asked.append(names)
        return {"b": "B"}

    operation = get_or_load_many(context, {"a": b"1", "b": b"2", "c": b"3"}, loader, FillOptions(1000))
    assert sent(next(operation)) == [(b"MGET", b"1", b"2", b"3")]
    leases = sent(operation.send([[VALUE, None, None]]))
    assert [command[:2] for command in leases] == [(b"SET", b"2"), (b"SET", b"3")]
    effect = operation.send([None, None])
    assert isinstance(effect, Load)
    loaded = effect.loader()
    assert asked == [["b", "c"]]
    released = sent(operation.send(loaded))
    assert [command[3] for command in released] == [b"3"]
    filled = sent(operation.send([1]))
    assert [command[:2] for command in filled] == [(b"SET", b"2")]
    assert result_of(operation, [b"OK"]) == {"a": "value", "b": "B"}


def test_many_keys_wait_only_for_those_that_others_load(context: Context) -> None:
    """What is ours is loaded and filled first; then one pause, and another look at the rest."""
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


def test_foreign_bytes_are_taken_over_if_they_still_stand(context: Context) -> None:
    """A record that cannot be read must not keep its key from being cached for ever."""
    operation = get_or_load(context, KEY, load, FillOptions(1000))
    lease = at_the_lease(operation)[2]
    assert sent(operation.send([b"garbage"])) == [(b"SET", KEY, lease, b"IFEQ", b"garbage", b"PX", 5000)]
    assert operation.send([b"OK"]) == Load(load)


class TestRefresh:
    """A value that is due is loaded again by one, and served to the others meanwhile."""

    KEEP = FillOptions(60_000, stale_ms=30_000)

    @pytest.fixture
    def loaded(self, context: Context, clock: StillClock) -> bytes:
        """The record of a value whose load took two seconds, fresh for a minute from now."""
        return context.codec.encode("old", Refresh(clock.at + 60, 2.0))

    def test_a_loaded_value_says_when_it_is_due(self, context: Context, clock: StillClock) -> None:
        """Its time, what its load took, and nobody at it; its key outlives it by the stale time."""
        operation = get_or_load(context, KEY, load, self.KEEP)
        at_the_lease(operation)
        operation.send([None])
        clock.at += 2
        [command] = sent(operation.send("loaded"))
        assert command[5:] == (b"PX", 90_000)
        assert stored_of(command[2]).refresh == Refresh(clock.at + 60, 2.0)

    def test_past_its_time_one_claims_it_and_the_others_are_served(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """The claim is a compare-and-set that keeps the time to live; the loser does not wait."""
        clock.at += 61
        winner, loser = (get_or_load(context, KEY, load, self.KEEP) for _ in range(2))
        next(winner)
        next(loser)
        [claim] = sent(winner.send([loaded]))
        mark = claimed(loaded, b"%016d" % 1, clock.at + 5)
        assert claim == (b"SET", KEY, mark, b"IFEQ", loaded, b"KEEPTTL")
        loser.send([loaded])
        assert result_of(loser, [None]) == "old"
        assert winner.send([b"OK"]) == Load(load)
        [fill] = sent(winner.send("new"))
        assert fill[3:5] == (b"IFEQ", mark)
        assert result_of(winner, [b"OK"]) == "new"
        assert context.counters.total().stale_hits == 2

    def test_a_claimed_value_is_served_without_another_claim(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """Until the claim's deadline; then somebody else may have it."""
        clock.at += 61
        mark = claimed(loaded, b"x" * 16, clock.at + 5)
        operation = get_or_load(context, KEY, load, self.KEEP)
        next(operation)
        assert result_of(operation, [mark]) == "old"
        clock.at += 5
        operation = get_or_load(context, KEY, load, self.KEEP)
        next(operation)
        assert sent(operation.send([mark]))[0][3:5] == (b"IFEQ", mark)

    def test_a_refresh_that_fails_puts_back_what_it_claimed(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """The old value goes on being served, and the next reader may try."""
        clock.at += 61
        operation = get_or_load(context, KEY, load, self.KEEP)
        next(operation)
        mark = sent(operation.send([loaded]))[0][2]
        operation.send([b"OK"])
        effect = operation.throw(ValueError("no"))
        assert sent(effect) == [(b"SET", KEY, loaded, b"IFEQ", mark, b"KEEPTTL")]
        with pytest.raises(ValueError, match="no"):
            operation.send([b"OK"])

    def test_who_allows_no_stale_value_takes_it_over(
        self, context: Context, clock: StillClock, loaded: bytes
    ) -> None:
        """By compare-and-set, so that a value filled meanwhile is not thrown away."""
        clock.at += 61
        operation = get_or_load(context, KEY, load, FillOptions(60_000))
        lease = at_the_lease(operation)[2]
        assert sent(operation.send([loaded])) == [(b"SET", KEY, lease, b"IFEQ", loaded, b"PX", 5000)]
        effect = operation.send([None])
        assert sent(effect)[0][3:5] == (b"NX", b"GET")

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
    """A value is vouched for by the tokens that its tags had when its load began."""

    KEEP = FillOptions(60_000, tags=(b"t",))

    def test_tokens_are_taken_with_the_lease(self, context: Context) -> None:
        """In one scatter, before the load; a missing token is made."""
        operation = get_or_load(context, KEY, load, self.KEEP)
        lease, tag = sent(next(operation))
        assert (tag[0], tag[1], tag[2][:1], *tag[3:5]) == (b"SET", b"t", b"T", b"NX", b"GET")
        assert operation.send([None, None]) == Load(load)
        [fill] = sent(operation.send("loaded"))
        assert stored_of(fill[2]).tags == {b"t": tag[2][1:]}
        assert fill[4] == lease[2]

    @pytest.mark.parametrize("token", [b"T" + b"x" * 16, None, NodeUnavailableError("down")], ids=repr)
    def test_a_value_under_another_token_is_a_miss_and_taken_over(self, context: Context, token: Any) -> None:
        """Whether the tag has another token, none, or a node that is away."""
        record = context.codec.encode("old", tags={b"t": b"o" * 16})
        operation = get_or_load(context, KEY, load, self.KEEP)
        next(operation)
        effect = operation.send([record, token])
        assert sent(effect)[0][3:5] == (b"IFEQ", record)

    def test_a_plain_get_asks_the_tags_that_the_value_names(self, context: Context) -> None:
        """In a second scatter, and only for such values."""
        record = context.codec.encode("value", tags={b"t": b"o" * 16})
        for token, expected in ((b"T" + b"o" * 16, "value"), (b"T" + b"n" * 16, None), (None, None)):
            operation = get(context, KEY)
            next(operation)
            assert sent(operation.send([record])) == [(b"GET", b"t")]
            assert result_of(operation, [token]) == expected

    def test_a_value_is_not_kept_where_a_tag_cannot_be_had(self, context: Context) -> None:
        """Nothing could take it back."""
        operation = get_or_load(context, KEY, load, self.KEEP)
        next(operation)
        assert operation.send([None, NodeUnavailableError("down")]) == Load(load)
        assert sent(operation.send("loaded"))[0][0] == b"EVALSHA"

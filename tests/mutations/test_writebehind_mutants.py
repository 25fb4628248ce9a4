"""Mutants of write-behind: each removes one line that a guarantee depends on, and a named test must fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from cachebackend import protocol, writebehind
from cachebackend.effects import Command, Send
from cachebackend.errors import WriteBehindPartialError, WriteBehindRefusedError, WriteBehindStoppedError
from cachebackend.node import Breaker
from cachebackend.protocol.queue import counts, drain_requests, folding, sealing
from cachebackend.protocol.queue.encodings import Encodings
from cachebackend.protocol.queue.sealing import Sealed
from cachebackend.writebehind import (
    apply,
    bisection,
    changes,
    checkpoints,
    drains,
    merged_row,
    partitions,
    reads,
    refusals,
    repeated_failures,
    retries,
    samples,
    seals,
    transactions,
)
from cachebackend.writebehind.checkpoints import Position
from cachebackend.writebehind.expressions import DELTA
from cachebackend.writebehind.queue import project_queue
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.integration import (
    test_writebehind,
    test_writebehind_cycles,
    test_writebehind_databases,
    test_writebehind_drains,
    test_writebehind_moves,
    test_writebehind_partial,
    test_writebehind_partitions,
    test_writebehind_reads,
    test_writebehind_refusals,
    test_writebehind_repair,
    test_writebehind_rows,
    test_writebehind_versions,
    test_writebehind_waiting,
)
from tests.mutations.scripts import change_script
from tests.mutations.test_mutants import is_caught
from tests.shop.models import Meter

Patch = pytest.MonkeyPatch
second_node = test_writebehind_drains.second_node
deploys = test_writebehind_versions.deploys
cities = test_writebehind_cycles.cities
unique_levels = test_writebehind_waiting.unique_levels
deploys = test_writebehind_versions.deploys
meters = test_writebehind_partitions.meters
urls = test_writebehind_moves.urls
second, two = test_writebehind_databases.second, test_writebehind_databases.two
pytestmark = [
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
]


@pytest.fixture
def articles() -> list[Article]:
    """Twenty rows."""
    return Article.objects.bulk_create([Article(slug=f"a{n}", title=f"A {n}") for n in range(20)])


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create()


def test_checkpoint_not_checked(articles: list[Article], monkeypatch: Patch) -> None:
    """The next batch is the one after the last deleted one."""
    lock = checkpoints.Queues.lock_checkpoint

    def trusting(self: Any, state: Any, using: str) -> Any:
        checkpoint = lock(self, state, using)
        if checkpoint is not None:
            checkpoint.batch = state.done
        return checkpoint

    monkeypatch.setattr(checkpoints.Queues, "lock_checkpoint", trusting)
    assert is_caught(
        test_writebehind.test_a_drained_batch_that_was_not_closed_is_deleted_and_not_applied_again,
        articles,
        monkeypatch,
    )


def test_checkpoint_set_outside_of_the_transaction(articles: list[Article], monkeypatch: Patch) -> None:
    """It is saved after the rows are committed."""
    store = drains.store_drained

    def later(*arguments: Any) -> None:
        transaction.on_commit(lambda: store(*arguments))

    monkeypatch.setattr(drains, "store_drained", later)
    assert is_caught(test_writebehind.test_the_number_is_committed_with_the_rows, articles, monkeypatch)


def test_hash_deleted_before_the_commit(articles: list[Article], monkeypatch: Patch) -> None:
    """The queue deletes a batch whose rows may still be rolled back."""
    take = drains._Drain._read_sealed

    def forgetful(self: Any, state: Any, checkpoint: Any, number: int) -> Any:
        batch = take(self, state, checkpoint, number)
        if batch:
            self._close(state, range(number, number + 1), batch[1].seal)
        return batch

    monkeypatch.setattr(drains._Drain, "_read_sealed", forgetful)
    with pytest.raises(Exception, match="came back with an older state"):
        test_writebehind.test_a_worker_killed_at_any_step_loses_and_doubles_nothing(
            articles, monkeypatch, "_commit"
        )
    connection.close()


def test_seal_skipped(articles: list[Article], monkeypatch: Patch) -> None:
    """A batch is drained while it still takes writes; its queue does not delete a batch without a seal."""

    def unsealed(context: Any, state: Any, partition: Any, number: int) -> Any:
        return Sealed(number + 1, number - 1, number, "", "", Encodings())
        yield

    monkeypatch.setattr(protocol.queue, "seal", unsealed)
    with pytest.raises(WriteBehindStoppedError, match="came back with an older file"):
        test_writebehind.test_writes_during_a_drain_go_into_the_next_batch(articles, monkeypatch)
    connection.close()


def test_seals_not_compared(meter: Meter, monkeypatch: Patch) -> None:
    """A queue that came back with an older file is recognized only by its numbers."""
    mismatch_of = checkpoints.mismatch_of
    monkeypatch.setattr(
        checkpoints,
        "mismatch_of",
        lambda checkpoint, open_batch, done, _: mismatch_of(
            Position(checkpoint.batch), open_batch, done, {checkpoint.batch: ""}
        ),
    )
    assert is_caught(
        test_writebehind_drains.test_an_older_queue_stays_stopped_after_any_number_of_writes,
        meter,
        "--drop",
        4,
    )


def test_seal_not_on_the_disk(meter: Meter, second_node: str, monkeypatch: Patch) -> None:
    """A batch is drained although its node may lose the seal."""

    def unsynced(*_: Any) -> Any:
        return
        yield

    monkeypatch.setattr(protocol.queue, "sync", unsynced)
    assert is_caught(
        test_writebehind_drains.test_a_batch_is_drained_only_when_its_seal_is_on_disk, meter, second_node
    )


def test_delta_applied_as_a_put(articles: list[Article], monkeypatch: Patch) -> None:
    """A delta replaces the value."""
    new = apply._new
    monkeypatch.setattr(apply, "_new", lambda current, staged: staged.get(DELTA) or new(current, staged))
    assert is_caught(test_writebehind.test_a_put_replaces_earlier_changes_and_later_ones_are_added, articles)


def test_overlay_ignoring_the_checkpoint(meter: Meter, monkeypatch: Patch) -> None:
    """A batch that the row contains counts again until its hash is deleted."""
    real = reads._not_drained
    monkeypatch.setattr(reads, "_not_drained", lambda queues, _: real(queues, {}))
    assert is_caught(
        test_writebehind_reads.test_a_read_is_exact_at_every_step_of_a_drain, meter, monkeypatch, "close"
    )


def test_overlay_ignoring_the_number_of_partitions(meters: list[Meter], monkeypatch: Patch) -> None:
    """A row that was read before the number was changed is merged with the queue of the new number."""
    read_queue = reads._read_queue

    def late(rows: Any, keys: Any, _: int) -> Any:
        return read_queue(rows, keys, project_queue().context.partitions)

    monkeypatch.setattr(reads, "_read_queue", late)
    assert is_caught(
        test_writebehind_partitions.test_a_read_notices_a_change_of_the_number, meters, monkeypatch, True
    )


def test_overlay_ignoring_done(meter: Meter, monkeypatch: Patch) -> None:
    """A row is returned although a deleted batch is not in it."""
    read_queue = reads._read_partitions

    def undone(*arguments: Any) -> Any:
        rows, counts = read_queue(*arguments)
        undrained = {row: [queue._replace(done=0) for queue in queues] for row, queues in rows.items()}
        return undrained, counts

    monkeypatch.setattr(reads, "_read_partitions", undone)
    assert is_caught(
        test_writebehind_reads.test_a_batch_drained_between_the_two_reads_is_not_lost, meter, monkeypatch
    )


def test_encodings_not_compared(deploys: test_writebehind_versions.Deploys, monkeypatch: Patch) -> None:
    """Values of two versions of a column are folded into one batch."""
    monkeypatch.setattr(folding, "_encodings_of", lambda _: b"")
    assert is_caught(
        test_writebehind_versions.test_two_versions_write_the_same_row_in_a_rolling_deploy, deploys
    )


def test_late_close_without_its_seal(meter: Meter, monkeypatch: Patch) -> None:
    """A slow worker deletes another batch that got the number of its own."""
    compared = b"if redis.call('HGET', meta, 'seal:' .. ARGV[2]) == ARGV[6] then"
    change_script(monkeypatch, sealing, "_CLOSE", compared, b"if true then")
    assert is_caught(
        test_writebehind_repair.test_a_late_close_deletes_no_other_batch_of_the_same_number,
        meter,
        monkeypatch,
    )


def test_number_of_partitions_not_compared_by_writes(monkeypatch: Patch) -> None:
    """A write that arrives after the number was changed is queued in a partition of the old number."""
    change_script(monkeypatch, folding, "_FOLD", b"if partitions ~= expected then", b"if not partitions then")
    rows = Meter.objects.bulk_create([Meter() for _ in range(20)])
    test = test_writebehind_partitions.test_a_write_that_arrives_after_the_change_is_in_its_partition
    assert is_caught(test, rows, 16)


def test_numbers_not_given_back(meters: list[Meter], urls: dict[str, str], monkeypatch: Patch) -> None:
    """A change of the number that fails leaves the other nodes without writes."""
    monkeypatch.setattr(partitions, "_reopen", lambda *_: None)
    test = test_writebehind_partitions.test_a_node_that_goes_away_during_the_change_is_named
    assert is_caught(test, meters, urls)


def test_number_exchanged_for_any_other(meters: list[Meter], monkeypatch: Patch) -> None:
    """A change that fails overwrites the number that another process has set."""
    compared = b"if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then"
    change_script(monkeypatch, counts, "_EXCHANGE", compared, b"if false then")
    assert is_caught(test_writebehind_partitions.test_a_change_does_not_undo_that_of_another_process, meters)


def test_new_node_numbered_by_the_settings(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """The first writer gives a node that has no number its own."""

    def by_settings(queue: Any) -> Any:
        found = yield from protocol.queue.partition_counts(queue, queue.nodes)
        new = {node: (None, queue.options.partitions) for node in queue.nodes if node not in found}
        yield from counts.exchange_partition_counts(queue, new)

    monkeypatch.setattr(folding, "share_partition_count", by_settings)
    with pytest.raises(WriteBehindPartialError, match="different numbers"):
        test_writebehind_partitions.test_a_new_node_gets_the_number_of_the_others(meters, urls)


def test_a_number_followed_while_the_nodes_differ(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """A write follows the node that it reached."""

    def unseen(*_: Any) -> Any:
        return
        yield

    monkeypatch.setattr(protocol.queue, "share_partition_count", unseen)
    test = test_writebehind_partitions.test_no_number_is_followed_while_the_nodes_differ
    assert is_caught(test, meters, urls)


def test_batch_of_another_database_drained(two: str, monkeypatch: Patch) -> None:
    """A worker writes the rows of another tenant to its own database."""
    monkeypatch.setattr(drains, "require_database", lambda *_: None)
    test = test_writebehind_databases.test_a_batch_of_another_database_does_not_land
    with pytest.MonkeyPatch.context() as patch:
        assert is_caught(test, two, patch, "update")


def test_queue_on_a_node_that_is_away_not_waited_for(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """A drain goes past an older queue that a checkpoint shows."""
    monkeypatch.setattr(checkpoints.Queues, "_require_seen", lambda *_: None)
    monkeypatch.setattr(checkpoints.Queues, "_accept", lambda *_: None)
    test = test_writebehind_partial.test_a_queue_that_is_not_ended_is_waited_for_on_any_node
    assert is_caught(test, urls, meters)


def test_samples_not_stored(meter: Meter, monkeypatch: Patch) -> None:
    """A queue that came back with an older file of the same batch is not recognized."""
    monkeypatch.setattr(seals, "store_samples", lambda *_: None)
    test = test_writebehind_repair.test_an_older_file_of_the_same_batch_is_noticed_after_a_tick
    assert is_caught(test, meter, 1, False)


def test_samples_of_an_older_queue_stored(meter: Meter, monkeypatch: Patch) -> None:
    """The first tick after an older file came back replaces what the queue must still have."""
    monkeypatch.setattr(samples, "mismatch_of", lambda *_: None)
    test = test_writebehind_repair.test_an_older_file_of_the_same_batch_is_noticed_after_a_tick
    assert is_caught(test, meter, 1, False)


def test_one_queue_of_a_partition_sampled(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """Samples are stored by partition, so one of two queues has none."""
    store = seals.store_samples

    def by_partition(client: Any, using: str, queues: Any) -> None:
        store(client, using, {each.partition: each for each in queues}.values())

    monkeypatch.setattr(seals, "store_samples", by_partition)
    test = test_writebehind_moves.test_every_queue_of_a_partition_is_sampled
    assert is_caught(test, urls, meters, "b")


def test_ended_queue_not_started_by_a_sample(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """A queue that is in use again counts as ended until its first drain."""
    save = samples._store

    def ended(checkpoint: Any, sample: Any) -> None:
        is_ended = checkpoint.is_ended
        save(checkpoint, sample)
        checkpoint.is_ended = is_ended

    monkeypatch.setattr(samples, "_store", ended)
    assert is_caught(test_writebehind_moves.test_a_queue_that_is_in_use_again_is_sampled, urls, meters)


def test_ended_queue_started_by_a_late_sample(
    meters: list[Meter], urls: dict[str, str], monkeypatch: Patch
) -> None:
    """A sample of a batch that is drained by now starts a queue that ended after it."""
    save = samples._store

    def started(checkpoint: Any, sample: Any) -> None:
        save(checkpoint, sample)
        checkpoint.is_ended = False

    monkeypatch.setattr(samples, "_store", started)
    test = test_writebehind_moves.test_a_sample_of_a_drained_batch_starts_no_ended_queue
    with pytest.MonkeyPatch.context() as patch:
        assert is_caught(test, urls, meters, patch)


def test_reads_of_a_stopped_partition(meter: Meter, services: Services, monkeypatch: Patch) -> None:
    """A read merges the batches of a queue that does not match its checkpoint."""
    monkeypatch.setattr(reads, "require_readable", lambda *_: None)
    test = test_writebehind_repair.test_reads_raise_while_an_older_queue_is_stopped
    assert is_caught(test, meter, services)


def test_number_of_partitions_not_compared_by_reads(monkeypatch: Patch) -> None:
    """A process with another number reads partitions that do not hold the rows."""
    read_partitions = reads._read_partitions
    monkeypatch.setattr(reads, "_read_partitions", lambda *arguments: (read_partitions(*arguments)[0], set()))
    rows = Meter.objects.bulk_create([Meter() for _ in range(20)])
    assert is_caught(
        test_writebehind_partitions.test_a_process_with_another_number_follows_the_nodes, rows, "update"
    )


class TestRequestsForDrains:
    """A partition has one task that waits."""

    @staticmethod
    def is_noticed(meter: Meter, monkeypatch: Patch) -> bool:
        return is_caught(test_writebehind_drains.test_a_partition_has_one_task_that_waits, meter, monkeypatch)

    @pytest.mark.parametrize("left_out", [{b"NX"}, {b"PX", b"10000"}], ids=["NX", "PX"])
    def test_request_without_an_option(self, meter: Meter, monkeypatch: Patch, left_out: set[bytes]) -> None:
        """Each tick sends a task; or no tick ever sends another one after a task that is lost."""

        def send(requests: Sequence[tuple[int, Command]]) -> Send:
            return Send(
                [(node, tuple(word for word in words if word not in left_out)) for node, words in requests]
            )

        monkeypatch.setattr(drain_requests, "Send", send)
        assert self.is_noticed(meter, monkeypatch)

    def test_request_that_no_drain_ends(self, meter: Meter, monkeypatch: Patch) -> None:
        """Later writes wait until the request expires."""
        monkeypatch.setattr(writebehind, "begin_drain", lambda _: None)
        assert self.is_noticed(meter, monkeypatch)


@pytest.mark.hangs
def test_timeout_that_ejects_no_queue_node(
    meter: Meter, services: Services, monkeypatch: Patch, call: Callable[..., Any]
) -> None:
    """Each call waits for a node that hangs."""
    # The client outlives the test, so its breakers keep their own value
    never = property(lambda _: False, lambda breaker, value: vars(breaker).update(opens_on_timeout=value))
    monkeypatch.setattr(Breaker, "opens_on_timeout", never, raising=False)
    test = test_writebehind_rows.test_a_hung_queue_node_costs_one_timeout_and_drops_counters_only_if_asked
    assert is_caught(test, meter, services, monkeypatch, call)


def test_row_that_does_not_name_its_queued_columns(meter: Meter, monkeypatch: Patch) -> None:
    """``save()`` writes a sum that the drain adds again."""
    monkeypatch.setattr(merged_row, "mark_queued", lambda *_: None)
    assert is_caught(test_writebehind_reads.test_an_instance_with_queued_writes_is_not_saved, meter)


def test_created_row_that_does_not_name_its_queued_columns(monkeypatch: Patch) -> None:
    """``save()`` inserts the row, and the drain parks its creation."""
    monkeypatch.setattr(changes, "mark_queued", lambda *_: None)
    assert is_caught(test_writebehind_reads.test_an_instance_of_a_queued_row_is_not_saved)


def test_queued_row_that_refuses_every_save(meter: Meter, monkeypatch: Patch) -> None:
    """Columns without queued writes are refused too."""
    mark = merged_row.mark_queued
    columns = [field.attname for field in Meter._meta.concrete_fields]
    monkeypatch.setattr(merged_row, "mark_queued", lambda instance, _: mark(instance, columns))
    with pytest.raises(WriteBehindRefusedError):
        test_writebehind_reads.test_an_instance_with_queued_writes_is_not_saved(meter)


def test_table_not_asked_for_its_types(deploys: Any, monkeypatch: Patch) -> None:
    """A batch is applied by the model's types; the table rounds its values."""
    monkeypatch.setattr(bisection.Bisection, "version_fault", lambda *_: None)
    assert is_caught(
        test_writebehind_versions.test_a_worker_whose_model_differs_from_the_table_rounds_nothing,
        test_writebehind_versions.FLOAT,
        test_writebehind_versions.INTEGER,
        1.5,
        deploys,
    )


@pytest.mark.parametrize(
    "behaviour",
    [
        test_writebehind_versions.test_a_deletion_deletes_queued_changes_of_columns_that_its_code_does_not_know,
        test_writebehind_versions.test_a_creation_is_drained_after_changes_of_columns_that_its_code_does_not_know,
    ],
)
def test_columns_of_other_versions_not_known(deploys: Any, behaviour: Any, monkeypatch: Patch) -> None:
    """A deletion and a creation see only the columns of their own version of the code."""
    change_script(monkeypatch, folding, "_FOLD", b"know(row .. column .. '\\0')", b"")
    assert is_caught(behaviour, *([5] if "deletion" in behaviour.__name__ else []), deploys)


def test_statement_that_is_too_slow_not_divided(meters: list[Meter], monkeypatch: Patch) -> None:
    """The batch is tried again as it is, for ever."""
    monkeypatch.setattr(refusals, "TOO_SLOW", "")
    with pytest.raises(OperationalError):
        test_writebehind_refusals.test_a_statement_that_takes_too_long_is_divided(meters, monkeypatch)


def test_lock_waited_for_as_long_as_a_statement(meters: list[Meter], monkeypatch: Patch) -> None:
    """A locked row is taken for a slow statement."""
    monkeypatch.setattr(transactions, "limit_times", lambda _: None)
    test = test_writebehind_refusals.test_a_locked_row_waits_alone_in_a_session_with_a_low_limit
    assert is_caught(test, meters)


def test_repeated_failures_not_counted(meters: list[Meter], monkeypatch: Patch) -> None:
    """A trigger's error with an SQLSTATE of the server stops its partition."""
    monkeypatch.setattr(repeated_failures.RepeatedFailures, "is_repeated", lambda *_: False)
    test = test_writebehind_refusals.test_a_row_whose_trigger_raises_an_error_of_the_server_waits
    assert is_caught(test, meters, "XX000")


def test_cycles_not_retried_together(cities: Any, monkeypatch: Patch) -> None:
    """Rows that refer to each other wait for each other, for ever."""
    monkeypatch.setattr(retries, "find_cycles", lambda _: [])
    assert is_caught(test_writebehind_cycles.test_new_rows_of_two_models_may_refer_to_each_other, cities)


def test_taken_values_not_waited_for(unique_levels: list[Meter], monkeypatch: Patch) -> None:
    """A person has to retry a write whose value a queued write frees."""
    monkeypatch.setattr(refusals, "TAKEN_WAIT", timedelta())
    test = test_writebehind_waiting.test_a_value_that_a_later_batch_frees_is_waited_for
    assert is_caught(test, unique_levels)


def test_writes_of_newer_code_not_waited_for(
    deploys: test_writebehind_versions.Deploys, monkeypatch: Patch
) -> None:
    """A person has to retry what an old worker drains before the migration."""
    monkeypatch.setattr(refusals, "DEPLOY_WAIT", timedelta())
    test = test_writebehind_versions.test_a_write_that_an_old_worker_drains_before_the_migration_waits_for_it
    assert is_caught(test, {"value": test_writebehind_versions.decimal(4)}, deploys)


def test_writes_of_older_code_waited_for_always(
    deploys: test_writebehind_versions.Deploys, monkeypatch: Patch
) -> None:
    """A value that no column holds any more is retried for ever."""
    monkeypatch.setattr(refusals, "DEPLOY_WAIT", timedelta.max)
    test = test_writebehind_versions.test_a_write_that_no_version_takes_needs_a_person_in_the_end
    assert is_caught(test, deploys)

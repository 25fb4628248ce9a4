"""Operations on the write-behind queue: partitions, batches, and how readers see queued writes.

``partition`` names the keys, ``fold`` merges writes into the open batch, ``seal`` closes batches,
syncs and deletes them, ``pending`` reads them, ``queue_state`` reports the state of each queue,
``drain_requests`` keeps Celery's queue short.
Each is a generator of effects. May import effects, options, clock and ring. Never imports the
cache's operations, Django or redis, and never writes to a database.
"""

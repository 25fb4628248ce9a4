"""Operations on the write-behind queue: partitions, batches, and what readers see of them.

``fold`` merges writes into the open batch, ``seal`` closes batches, ``pending`` reads them,
``queue_state`` reports each partition. Never imports the cache's operations.
"""

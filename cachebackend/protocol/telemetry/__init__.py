"""Operations that observe: shared counters, the nodes' INFO, and the record of one key.

Each is a generator of effects over the alias' nodes (or the queue's, for the counters). May import
what ``protocol.cache`` may import, and the queue's context. Never changes a cached value.
"""

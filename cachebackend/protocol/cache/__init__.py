"""Operations on cached keys: get, set, lease, fill, quarantine, tags.

Each module holds one group of operations as generators of effects, and the Lua files that
only these operations run. Imports ``protocol.ring`` and ``protocol.context``; never the queue.
"""

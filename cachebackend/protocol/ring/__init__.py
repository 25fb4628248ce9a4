"""Operations that reach more than a key's owner: writes, deletes, ring changes, replays, clears.

``write`` is the bracket that every write of a key goes through. Imports ``protocol.context``
and ``protocol.missed_deletes``; never ``protocol.cache``, which builds on it.
"""

"""Operations that reach more than a key's owner: deletes, ring changes, replays, clears.

Imports ``protocol.context`` only; ``protocol.cache`` builds on it.
"""

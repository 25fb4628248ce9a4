"""Operations that observe: shared counters, and what nodes report about themselves and a key.

Nothing here changes a cached value.
"""

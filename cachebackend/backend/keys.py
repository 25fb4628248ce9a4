"""Turns the keys, versions, timeouts and tags of Django's cache API into the nodes' keys and milliseconds."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    BaseCache,
    CacheKeyWarning,
    default_key_func,
    memcache_key_warnings,
)

from cachebackend.backend.scope import is_safe
from cachebackend.backend.tag_names import Tag, tag_name
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "ANY_KEY",
    "ENCODING",
    "LONGEST_KEY",
    "KeyCache",
    "Timeout",
    "change_key",
    "change_keys",
    "content_of_change_key",
    "is_tag_key",
    "pattern_key",
    "pattern_of_key",
    "shard_and_shape",
    "special_keys",
]

#: Characters. Memcached refuses a longer key, and Django warns about it.
LONGEST_KEY = 250
#: A key and a version that no caller uses. The pattern of an alias has a wildcard in their positions.
_SAMPLE_KEY, _SAMPLE_VERSION = "\x00key\x00", 987_654_321
#: A thousand years. A node refuses a time to live that is too large; this one is accepted.
_LONGEST_MS = 1000 * 366 * 24 * 3600 * 1000
#: The printable ASCII bytes, the space included.
_PRINTABLE = bytes(range(ord(" "), 0x7F))
_GLOB = re.compile(rb"([*?\[\]\\^-])")
#: The encoding of keys, and its error handler: a lone surrogate survives the way there and back.
ENCODING = ("utf-8", "surrogatepass")
#: The end of the key that holds a tag's token. No user's key ends in it: UTF-8 has no such byte.
_TAG_END = b"\xff"
#: The end of what a set of keys to delete has for all keys of a pattern. No key has this byte either.
_PATTERN_END = b"\xfe"
#: The end of what a set of keys to delete has for a change of rows. No key has this byte either.
_CHANGE_END = b"\xfd"
#: What a set of keys to delete has beside patterns: any other key may be one of theirs.
ANY_KEY = _PATTERN_END

#: The most keys of one prefix and version whose bytes a process remembers.
_MAX_ENCODED_KEYS = 2_000
#: The attributes that decide the bytes of a key.
_KEY_ATTRIBUTES = frozenset({"key_func", "key_prefix", "version"})

Timeout: TypeAlias = float | object | None


def is_tag_key(key: bytes) -> bool:
    """Return whether a key, as the nodes store it, holds the token of a tag."""
    return key.endswith(_TAG_END)


def shard_and_shape(name: bytes) -> tuple[bytes, bytes] | None:
    """Return the shard and the id in the name of a shape's token; None if it is the key of a tag."""
    end = name.find(_TAG_END) + 1  # the id, too, may have this byte
    return None if end == len(name) else (name[:end], name[end:])


def pattern_key(pattern: bytes, *, is_tag: bool) -> bytes:
    """Return what a set of keys to delete has for all keys that match a Redis pattern.

    Args:
        pattern: The pattern.
        is_tag: Whether the keys hold tokens of tags. They are deleted after the values.
    """
    return pattern + _PATTERN_END + (_TAG_END if is_tag else b"")


def pattern_of_key(key: bytes) -> bytes | None:
    """Return the pattern of a ``pattern_key``; None for a key."""
    rest = key.removesuffix(_TAG_END)
    return rest[:-1] if rest.endswith(_PATTERN_END) else None


def change_key(content: bytes) -> bytes:
    """Return what a set of keys to delete has for a change of rows.

    The tags of query results that it makes wrong are found when it is deleted. That is when values are,
    because results of queries are values: a loader may read one, and what it makes has other tags.
    """
    return content + _CHANGE_END


def content_of_change_key(key: bytes) -> bytes | None:
    """Return the content of a ``change_key``; None for another key."""
    return key[: -len(_CHANGE_END)] if key.endswith(_CHANGE_END) else None


def change_keys(keys: Iterable[bytes]) -> set[bytes]:
    """Return those of some keys that stand for changes of rows."""
    return {key for key in keys if content_of_change_key(key) is not None}


class _Remembered(dict[str, bytes]):
    """The bytes of the keys that were encoded last with one beginning; threads share it.

    Args:
        beginning: What the keys begin with; None: nothing may be remembered.
    """

    def __init__(self, beginning: str | None) -> None:
        super().__init__()
        self.beginning = beginning


_remembered = lru_cache(maxsize=64)(_Remembered)


def special_keys(keys: Iterable[bytes]) -> set[bytes]:
    """Return those of some keys that stand for other keys: each ``pattern_key`` and ``change_key``."""
    marked = [key for key in keys if _PATTERN_END in key or _CHANGE_END in key]
    return {
        key for key in marked if pattern_of_key(key) is not None or content_of_change_key(key) is not None
    }


class KeyCache(BaseCache):
    """A cache whose keys are bytes and whose times to live are milliseconds."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._encoded_keys = self._remembered_keys()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; if it decides the bytes of keys, take the remembered keys that fit it."""
        super().__setattr__(name, value)
        if name in _KEY_ATTRIBUTES and "_encoded_keys" in self.__dict__:
            self._encoded_keys = self._remembered_keys()

    def _remembered_keys(self) -> _Remembered:
        """Return the bytes of the caller's last keys; none with a key function, which may change its mind."""
        return _remembered(f"{self.key_prefix}:{self.version}:") if self.has_plain_keys else _Remembered(None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find out whether a subclass replaces the methods that make keys."""
        super().__init_subclass__(**kwargs)
        cls._makes_plain_keys = (cls.make_key, cls.validate_key) == (
            BaseCache.make_key,
            BaseCache.validate_key,
        )

    _makes_plain_keys = True

    def key_bytes(self, key: Any, version: int | None = None) -> bytes:
        """Return the key as the nodes store it; warn about a key that memcached would refuse."""
        encoded = self._encoded_keys.get(key) if version is None and key.__class__ is str else None
        return self._encode_key(key, version) if encoded is None else encoded

    def _encode_key(self, key: Any, version: int | None) -> bytes:
        """Return a key's bytes; remember those of a plain text that needs no warning."""
        if not self._makes_plain_keys:
            return self.make_and_validate_key(key, version).encode(*ENCODING)
        remembered = self._encoded_keys
        number = self.version if version is None else version
        is_plain = self.key_func is default_key_func
        text = (
            f"{self.key_prefix}:{number}:{key!s}" if is_plain else self.key_func(key, self.key_prefix, number)
        )
        encoded = text.encode(*ENCODING)
        if len(text) > LONGEST_KEY or not is_safe(text):
            for warning in memcache_key_warnings(text):
                warnings.warn(warning, CacheKeyWarning, stacklevel=4)
        elif is_plain and version is None and key.__class__ is str:
            if text != f"{remembered.beginning}{key}":  # another thread has set an attribute meanwhile
                return encoded
            if len(remembered) >= _MAX_ENCODED_KEYS:
                remembered.clear()
            remembered[key] = encoded
        return encoded

    def many_key_bytes(self, keys: Sequence[Any], version: int | None = None) -> list[bytes]:
        """Return the keys as ``key_bytes`` does, but check all of them in one step where possible."""
        if self.has_plain_keys and keys:
            prefix = f"{self.key_prefix}:{self.version if version is None else version}:"
            texts = keys if list(map(type, keys)).count(str) == len(keys) else map(str, keys)
            joined = (prefix + f" {prefix}".join(texts)).encode(*ENCODING)
            if not joined.translate(None, _PRINTABLE):
                encoded = joined.split(b" ")
                if len(encoded) == len(keys) and max(map(len, encoded)) <= LONGEST_KEY:
                    return encoded  # none of them needs a warning
        return [self.key_bytes(key, version) for key in keys]

    def _keys(self, keys: Iterable[Any], version: int | None) -> dict[Any, bytes]:
        """Return the key on the nodes for each of the caller's keys."""
        keys = list(keys)
        return dict(zip(keys, self.many_key_bytes(keys, version), strict=True))

    def ttl_ms(self, timeout: Timeout = DEFAULT_TIMEOUT) -> int | None:
        """Return a timeout in milliseconds, rounded up.

        Returns:
            None: the value never expires. 0 or less: it expires at once.

        Raises:
            TypeError: The timeout is neither a number of seconds nor a timedelta.
            ValueError: The timeout is infinite or not a number.
        """
        seconds: Any = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        try:
            return None if seconds is None else min(math.ceil(seconds * 1000), _LONGEST_MS)
        except (TypeError, ValueError, OverflowError) as error:
            raise_interrupt(error)
            message = f"a timeout is a number of seconds, a timedelta, or None for ever; not {timeout!r}"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from None

    def tag_bytes(self, tag: Tag) -> bytes:
        """Return the key that holds the token of a tag.

        Args:
            tag: A string, a model (all of its rows), or one row.

        Raises:
            TypeError: It is none of these, or a row without a primary key.
            ImproperlyConfigured: Nothing watches the writes of the model.
        """
        return self.key_bytes(tag_name(tag)) + _TAG_END

    def many_tag_bytes(self, names: Sequence[str]) -> list[bytes]:
        """Return the keys that hold the tokens of tags, given the tags' names."""
        return [key + _TAG_END for key in self.many_key_bytes(names)]

    @property
    def has_plain_keys(self) -> bool:
        """Whether the alias makes its keys as Django does by default."""
        return self._makes_plain_keys and self.key_func is default_key_func

    @staticmethod
    def escaped(text: bytes) -> bytes:
        """Return the Redis pattern that matches this text only."""
        return _GLOB.sub(rb"\\\1", text)

    @property
    def can_clear(self) -> bool:
        """Whether a pattern can match the keys of this alias."""
        return _SAMPLE_KEY in self.key_func(_SAMPLE_KEY, self.key_prefix, _SAMPLE_VERSION)

    @property
    def pattern(self) -> bytes:
        """The Redis pattern of the keys of this alias, in all versions; raises as ``pattern_of``."""
        return self.pattern_of("")

    def pattern_of(self, *parts: str) -> bytes:
        """Return the Redis pattern that matches the keys that begin with these parts, in all versions.

        Between two parts a key may have any text.

        Raises:
            RingCacheError: The alias has a ``KEY_FUNCTION`` whose keys do not contain the key.
        """
        text = self.key_func(_SAMPLE_KEY, self.key_prefix, _SAMPLE_VERSION)
        if _SAMPLE_KEY not in text:
            message = "clear() cannot find this alias' keys: its KEY_FUNCTION hides the key it is given"
            raise RingCacheError(message)
        pattern = self.escaped(text.encode(*ENCODING))
        pattern = pattern.replace(str(_SAMPLE_VERSION).encode(), b"[0-9]*")
        key = b"".join(self.escaped(part.encode(*ENCODING)) + b"*" for part in parts)
        return pattern.replace(_SAMPLE_KEY.encode(), key)

    @property
    def tag_pattern(self) -> bytes:
        """The Redis pattern that matches the tags of this alias, in all versions; raises as ``pattern``."""
        return self.pattern + _TAG_END

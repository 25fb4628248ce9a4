"""What Django calls a key, a version and a timeout, as the nodes know them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    BaseCache,
    CacheKeyWarning,
    default_key_func,
    memcache_key_warnings,
)
from django.db import models

from cachebackend.errors import RingCacheError

__all__ = ["ENCODING", "LONGEST_KEY", "KeyCache", "Tag", "Timeout", "is_safe"]

#: Longer keys memcached would refuse, and Django warns of.
LONGEST_KEY = 250
_MARK, _MARK_VERSION = "\x00key\x00", 987_654_321
#: A thousand years: what a node takes for a time to live has an end, and this is before it.
_LONGEST_MS = 1000 * 366 * 24 * 3600 * 1000
#: The bytes of ASCII that can be printed, a blank included.
_PRINTABLE = bytes(range(ord(" "), 0x7F))
_GLOB = re.compile(rb"([*?\[\]\\^-])")
#: How text becomes a key's bytes and is found in them again, half a character included.
ENCODING = ("utf-8", "surrogatepass")

Timeout: TypeAlias = float | object | None
#: A string, a model for all its rows, or a row.
Tag: TypeAlias = str | type[models.Model] | models.Model


def is_safe(text: str) -> bool:
    """Return whether a text has no character that anybody is warned of in a key."""
    return text.isprintable() and " " not in text


class KeyCache(BaseCache):
    """A cache whose keys are bytes and whose times to live are milliseconds."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Ask a subclass that makes its own keys for them."""
        super().__init_subclass__(**kwargs)
        cls._makes_plain_keys = (cls.make_key, cls.validate_key) == (
            BaseCache.make_key,
            BaseCache.validate_key,
        )

    _makes_plain_keys = True

    def key_bytes(self, key: Any, version: int | None = None) -> bytes:
        """Return the key as the nodes know it, warning of what memcached would refuse."""
        if not self._makes_plain_keys:
            return self.make_and_validate_key(key, version).encode(*ENCODING)
        version = self.version if version is None else version
        if self.key_func is default_key_func:
            made = f"{self.key_prefix}:{version}:{key!s}"
        else:
            made = self.key_func(key, self.key_prefix, version)
        if len(made) > LONGEST_KEY or not is_safe(made):
            for warning in memcache_key_warnings(made):
                warnings.warn(warning, CacheKeyWarning, stacklevel=3)
        return made.encode(*ENCODING)

    def many_key_bytes(self, keys: Sequence[Any], version: int | None = None) -> list[bytes]:
        """Return the keys as the nodes know them, as ``key_bytes`` does: looked at all at once."""
        if self.has_plain_keys and keys:
            opening = f"{self.key_prefix}:{self.version if version is None else version}:"
            texts = keys if list(map(type, keys)).count(str) == len(keys) else map(str, keys)
            whole = (opening + f" {opening}".join(texts)).encode(*ENCODING)
            if not whole.translate(None, _PRINTABLE):
                made = whole.split(b" ")
                if len(made) == len(keys) and max(map(len, made)) <= LONGEST_KEY:
                    return made  # nothing is to be said of any of them
        return [self.key_bytes(key, version) for key in keys]

    def _keys(self, keys: Iterable[Any], version: int | None) -> dict[Any, bytes]:
        keys = list(keys)
        return dict(zip(keys, self.many_key_bytes(keys, version), strict=True))

    def ttl_ms(self, timeout: Timeout = DEFAULT_TIMEOUT) -> int | None:
        """Return a timeout in milliseconds, rounded up; None: for ever; 0 or less: not at all.

        Raises:
            TypeError, ValueError: It is neither a number of seconds nor a timedelta, or is no finite one.
        """
        seconds: Any = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        try:
            return None if seconds is None else min(math.ceil(seconds * 1000), _LONGEST_MS)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"a timeout is a number of seconds, a timedelta, or None for ever; not {timeout!r}"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from None

    def tag_bytes(self, tag: Tag) -> bytes:
        """Return the key of a tag.

        Args:
            tag: A string, a model for all its rows, or a row.
        """
        if isinstance(tag, str):
            return self.key_bytes(f"tag:{tag}")
        name = f"tag:{tag._meta.label_lower}"
        return self.key_bytes(f"{name}:{tag.pk}" if isinstance(tag, models.Model) else name)

    def many_tag_bytes(self, tags: Iterable[str]) -> list[bytes]:
        """Return the keys of tags that are strings."""
        return self.many_key_bytes([f"tag:{tag}" for tag in tags])

    @property
    def has_plain_keys(self) -> bool:
        """Whether keys are made as Django makes them by default."""
        return self._makes_plain_keys and self.key_func is default_key_func

    @staticmethod
    def escaped(text: bytes) -> bytes:
        """Return the Redis pattern that matches a text alone."""
        return _GLOB.sub(rb"\\\1", text)

    @property
    def _can_clear(self) -> bool:
        return _MARK in self.key_func(_MARK, self.key_prefix, _MARK_VERSION)

    @property
    def pattern(self) -> bytes:
        """The Redis pattern that this alias' keys match, whatever its key function."""
        made = self.key_func(_MARK, self.key_prefix, _MARK_VERSION)
        if _MARK not in made:
            message = "clear() cannot tell this alias' keys: its KEY_FUNCTION hides the key it is given"
            raise RingCacheError(message)
        pattern = self.escaped(made.encode(*ENCODING))
        return pattern.replace(_MARK.encode(), b"*").replace(str(_MARK_VERSION).encode(), b"[0-9]*")

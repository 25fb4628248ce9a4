"""A filter for Django's error page and error mails: it masks the logins of URLs, and the seed of the hash.

Django masks a setting by its name, so it shows the password of a URL in ``CACHES["default"]["LOCATION"]``,
and in each local variable that holds these settings::

    DEFAULT_EXCEPTION_REPORTER_FILTER = "cachebackend.error_reports.URLPasswordFilter"

It masks the text that the page prints of a value, so the type of the value does not matter. Django filters
neither the message of an error nor the lines of source code.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView
from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

from cachebackend.interrupts import raise_interrupt

__all__ = ["URLPasswordFilter"]

#: A part of a text without white space, up to the comma or semicolon before another URL. No valid URL has
#: white space; each other character may be in a login.
_PIECE = re.compile(r"(?:(?![,;][A-Za-z+]{1,20}://)\S)+")
#: A password in the query of a URL, up to the next parameter.
_QUERY = re.compile(r"([?&]\w*password=)[^&]+", re.IGNORECASE)
#: A secret after its name: in the text that libpq connects with, in JSON, in the ``repr`` of a container. It
#: is a text in quotes, a list, or all up to white space. After a comma only if the name is in quotes, because
#: a sentence may hold the word. What is masked already stays.
_NAMED = re.compile(
    r"""((?:password|hash_seed)(?:\\*['"]\s*[=:,]|\s*[=:])\s*)(?!\*\*\*)"""
    r"""(?:b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|\S+)""",
    re.IGNORECASE | re.DOTALL,
)
#: What precedes a login: in a URL, and in what ``urlsplit`` returns.
_BEFORE_LOGIN = ("://", "netloc=")
#: Names whose value is masked if it is a text, a number or several of them.
_SECRET_NAMES = re.compile("password|netloc|hash_seed", re.IGNORECASE)
#: Types of values that hold no text.
_WITHOUT_TEXT = frozenset({bool, float, int, type(None)})
#: Values that are nested deeper than this are masked whole.
_MAX_DEPTH = 20


class URLPasswordFilter(SafeExceptionReporterFilter):
    """Django's filter, which also masks user and password of each URL in settings and local variables."""

    def cleanse_setting(self, key: int | str, value: Any) -> Any:
        """Return a setting as Django masks it, without the logins of URLs."""
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            value = value._asdict()  # Django's filter would remove the names
        return self._masked(super().cleanse_setting(key, value))

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> ItemsView[str, Any]:
        """Return the local variables of a frame, with ``DEBUG`` too, without the logins of URLs."""
        variables = super().get_traceback_frame_variables(request, tb_frame)
        masked: dict[str, Any] = self._masked(dict(variables))
        return masked.items()

    def _masked(self, value: Any, depth: int = 0) -> Any:
        """Return a text or a container with masked texts; for any other value, its masked ``repr``."""
        if depth > _MAX_DEPTH:
            return self.cleansed_substitute
        kind = type(value)
        if kind in _WITHOUT_TEXT:
            return value
        if kind is str:
            return _without_logins(value)
        if kind is dict:
            return {
                self._masked(key, depth + 1): (
                    self.cleansed_substitute
                    if isinstance(key, str)
                    and isinstance(each, str | bytes | int | list | tuple | set | frozenset)
                    and _SECRET_NAMES.search(key)
                    else self._masked(each, depth + 1)
                )
                for key, each in value.items()
            }
        if kind in {list, tuple}:
            return kind(self._masked(each, depth + 1) for each in value)
        return _Shown(value)


class _Shown:
    """Stands for a value: its ``repr`` is that of the value, without the logins of URLs."""

    def __init__(self, value: object) -> None:
        try:
            self._text = _without_logins(repr(value))
        except Exception as error:  # noqa: BLE001  # a class may raise any error
            raise_interrupt(error)
            self._text = f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"

    def __repr__(self) -> str:
        return self._text


def _without_logins(text: str) -> str:
    """Return a text in which the logins of URLs, passwords and seeds are masked."""
    return _NAMED.sub(r"\1***", _PIECE.sub(lambda piece: _without_login(piece[0]), text))


def _without_login(piece: str) -> str:
    for mark in _BEFORE_LOGIN:
        before, found, rest = piece.partition(mark)
        if found and "@" in rest:
            piece = f"{before}{mark}***@{rest.rpartition('@')[2]}"
    return _QUERY.sub(r"\1***", piece)

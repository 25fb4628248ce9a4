"""What the text of an SQL statement says, as far as it matters for the cache.

It is a hint: a SELECT may call a function that writes or makes a setting, ``EXECUTE`` runs a text that is not
seen, and comments in each other hide what follows them. ``docs/cache-queries.md`` names what is not seen.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = [
    "Savepoint",
    "commits",
    "makes_settings",
    "may_change_rows",
    "releases_savepoint",
    "resets_settings",
    "rolls_back",
    "savepoint_of",
    "statement_text",
    "without_begin",
]

#: What may come before a statement; ``#`` begins a comment of MySQL.
_BEGIN = r"(?>\s|\(|(?:--|#)[^\n]*\n|/\*.*?\*/)*"
#: Statements that most probably change no rows. A SELECT without FROM is a call of a function, which may
#: write; a second statement in the text, or SET CONSTRAINTS, which runs deferred triggers, may write too.
_READS = re.compile(
    _BEGIN
    + r"(?:SELECT\b[^;]*?\bFROM\b|SAVEPOINT\b|RELEASE\b|SET\b(?!\s+CONSTRAINTS)|SHOW\b|PRAGMA\b)[^;]*;?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)

#: Extensions whose settings decide what is similar or near, or what functions return.
_EXTENSIONS = (
    r"ANON|BM25\w*|DISKANN|HNSW|IVFFLAT|LANTERN\w*|ORAFCE|PARADEDB|PG_BIGM|PG_JIEBA|PG_SIMILARITY|PG_TRGM"
    r"|PGROONGA|PLPGSQL|POSTGIS|RDKIT|SMLAR|VCHORD\w*|VECTORS|ZHPARSER"
)
#: Settings on which no row and no result depends: who writes, how long, and how fast. Settings of a program
#: of its own have a dot in their names, as those of some extensions do. Any other setting may change how the
#: database shows times, floats or bytes, compares texts, or where it looks for tables.
_HARMLESS_NAMES = (
    r"[\"`]?(?:APPLICATION_NAME|AUTOCOMMIT|CLIENT_MIN_MESSAGES|SYNCHRONOUS_COMMIT|\w*WORK_MEM|TEMP_BUFFERS"
    r"|PLAN_CACHE_MODE|\w+_COST|MAX_PARALLEL_\w+|JIT\w*|ENABLE_\w+|LOG_\w+|\w+_TIMEOUT|FOREIGN_KEY_CHECKS|UNIQUE_CHECKS"
    rf"|(?!(?:{_EXTENSIONS})\b)[A-Z]\w*[\"`]?\.[\"`]?\w+)[\"`]?"
)
#: The value of a setting, up to a comment, another setting or another statement.
_VALUE = r"(?:'[^'\\]*'|\"[^\"\\]*\"|(?!--)[^;,'\"/\\#])*"
#: A statement that makes or ends a setting, in a block of code or a comment of MySQL, too; and one that makes
#: or ends one harmless setting, and does nothing else.
_SET = re.compile(
    rf"{_BEGIN}(?:(?:RE)?SET\b|DO\b.*?\b(?:RE)?SET\b)|\s*/\*M?!\d*\s*SET\b", re.IGNORECASE | re.DOTALL
)
_HARMLESS_SET = re.compile(
    rf"{_BEGIN}(?:RE)?SET\b{_BEGIN}(?:(?:SESSION|LOCAL)\b{_BEGIN})?"
    r"(?:(?:CONSTRAINTS|ROLE|TRANSACTION|AUTHORIZATION|CHARACTERISTICS)\b"
    rf"|{_HARMLESS_NAMES}\s*(?:(?:=|TO\b){_VALUE})?{_BEGIN}(?:;|\Z))",
    re.IGNORECASE | re.DOTALL,
)
#: A call of the function that makes any setting, if its argument is not a plain text with a harmless name, or
#: an UPDATE of the view that shows them.
_SET_CONFIG = re.compile(
    rf"\bset_config\b(?!\s*\(\s*'{_HARMLESS_NAMES}'\s*,)|\bUPDATE\b[^;]*\bpg_settings\b", re.IGNORECASE
)
#: A statement that ends all settings of a transaction, also that in which triggers say that they wrote.
_RESET = re.compile(r"\bRESET\s+ALL\b", re.IGNORECASE)
_ROLLBACK = re.compile(rf"{_BEGIN}ROLLBACK\b", re.IGNORECASE | re.DOTALL)
#: A statement of a savepoint: what it does, and the name, as no database shortens it.
_SAVEPOINT = re.compile(
    r"\s*(SAVEPOINT|RELEASE|ROLLBACK)\b(?:\s+(?:WORK|TRANSACTION))?(?:\s+TO)?(?:\s+SAVEPOINT)?"
    r"\s+[\"`]?(\w{1,63})[\"`]?\s*;?\s*\Z",
    re.IGNORECASE | re.ASCII,
)

#: A statement that may commit although autocommit is off, alone or in a text of several. On SQLite it may be
#: the RELEASE of the outermost savepoint, if nothing was executed before that.
_COMMITS = re.compile(rf"(?:\A|;){_BEGIN}(?:COMMIT|END)\b", re.IGNORECASE | re.DOTALL)
_RELEASES = re.compile(rf"(?:\A|;){_BEGIN}RELEASE\b", re.IGNORECASE | re.DOTALL)
#: A statement that begins a transaction, at the beginning of a text.
_BEGINS = re.compile(rf"{_BEGIN}(?:BEGIN|START\s+TRANSACTION)\b[^;]*(?:;|\Z)", re.IGNORECASE | re.DOTALL)


class Savepoint(NamedTuple):
    """A statement of a savepoint.

    Attributes:
        action: ``SAVEPOINT``, ``RELEASE`` or ``ROLLBACK``.
        name: The name in lower case: databases differ in whether ``x`` and ``"X"`` are the same.
    """

    action: str
    name: str


def statement_text(sql: Any, connection: BaseDatabaseWrapper) -> str:
    """Return a statement as text, also one of the driver's ``sql`` module; empty: it is not known."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    render = getattr(sql, "as_string", None)
    return "" if render is None else str(render(connection.connection))


def may_change_rows(text: str) -> bool:
    """Return whether a statement may change rows, or is not known to change none."""
    return _READS.match(text) is None


def makes_settings(text: str) -> bool:
    """Return whether one of the statements in a text makes or ends a setting on which results may depend."""
    begins = (0, *(each.end() for each in re.finditer(";", text)))
    lower = text.lower()
    is_called = ("set_config" in lower or "pg_settings" in lower) and _SET_CONFIG.search(text) is not None
    return is_called or any(_SET.match(text, each) and not _HARMLESS_SET.match(text, each) for each in begins)


def resets_settings(text: str) -> bool:
    """Return whether a text may end all settings of the session."""
    return "reset" in text.lower() and _RESET.search(text) is not None


def rolls_back(text: str) -> bool:
    """Return whether a statement is a ROLLBACK, also one to a savepoint."""
    return _ROLLBACK.match(text) is not None


def savepoint_of(text: str) -> Savepoint | None:
    """Return which statement of a savepoint a text is; None: it is another one."""
    found = _SAVEPOINT.match(text)
    return None if found is None else Savepoint(found[1].upper(), found[2].lower())


def commits(text: str) -> bool:
    """Return whether one of the statements in a text may commit."""
    return _COMMITS.search(text) is not None


def releases_savepoint(text: str) -> bool:
    """Return whether one of the statements in a text releases a savepoint."""
    return _RELEASES.search(text) is not None


def without_begin(text: str) -> str:
    """Return a text without the statement that begins a transaction, if this is its first one."""
    found = _BEGINS.match(text)
    return text if found is None else text[found.end() :]

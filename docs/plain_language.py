"""Find phrases that are hard to read, and say what to write instead.

    python -m docs.plain_language            # the whole repository; exits with 1 on a finding
    python -m docs.plain_language docs/x.md  # these files or folders
    python -m docs.plain_language --count    # the number of findings in each top-level folder

Checks the comments, docstrings and strings of Python files, and the whole text of Lua, SQL,
Markdown, HTML and YAML files. A phrase that is broken over two lines is found too. A line that quotes
a phrase on purpose carries the words ``plain: ok`` in a comment. Text between the marks of
``docs/generated.py`` is skipped: it is checked where it is written.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Finding", "Phrase", "find_in_text", "find_phrases", "main"]

ROOT = Path(__file__).resolve().parent.parent
#: Files that are read, by the end of their name.
SUFFIXES = frozenset({".py", ".lua", ".sql", ".md", ".html", ".yaml", ".yml"})
#: Folders that hold no text of ours.
SKIPPED = frozenset({"_build", "__pycache__", "screenshots", "node_modules", "migrations"})
#: A line that carries this quotes a phrase on purpose.
EXEMPT = "plain: ok"
#: Stands for code in a text of which only the prose is wanted; matches no blank.
_CODE = "\x00"
#: What may lie between two words of a phrase: blanks, or one line break.
_GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*)"
_GENERATED = re.compile(r"^<!-- generated: .*?^<!-- end generated -->$", re.MULTILINE | re.DOTALL)
#: Names of modules that said nothing to a reader.
_MODULES = (
    "farewell|glance|words|beats|telling|caught|dropping|swapping|placing|landing|launch|keyed|"
    "standing|endings|older|growing"
)


class Phrase(NamedTuple):
    """A phrase that is not written any more.

    Attributes:
        pattern: A regular expression; a blank in it matches blanks and one line break.
        instead: What to do about it.
    """

    pattern: str
    instead: str

    @property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern, at word boundaries, without regard to case."""
        return re.compile(rf"(?<![\w-])(?:{self.pattern.replace(' ', _GAP)})(?![\w-])", re.IGNORECASE)


PHRASES = (
    Phrase("for who", "name the reader: 'for a caller that …'"),  # plain: ok
    Phrase("but for", "write 'except', 'except for'"),  # plain: ok
    Phrase("anew", "write 'again'"),  # plain: ok
    Phrase("for to", "write 'because', 'to'"),  # plain: ok
    Phrase("so many", "name the quantity: '`limit` keys'"),  # plain: ok
    Phrase("for so long", "name the time: 'for `timeout` seconds'"),  # plain: ok
    Phrase("whoever", "name the actor: 'the process that …'"),  # plain: ok
    Phrase("whatever", "write 'any', 'every', or name the thing"),  # plain: ok
    Phrase("once in a while", "name the interval: 'at most once a minute'"),  # plain: ok
    Phrase(r"vouch\w*", "write 'prove', 'check'"),  # plain: ok
    Phrase("(?:is|are|be) (?:of )?no use", "write 'is useless', or what happens instead"),  # plain: ok
    Phrase("(?:is|are|was|were) (?:not )?to be", "write 'must be', 'will be'"),  # plain: ok
    # "There are no rows" is plain, and so is "is no longer"
    Phrase(
        r"(?!\S*\bthere )\S+ (?:is|are) no(?! (?:longer|more|use))", "write 'is not a', 'are not'"
    ),  # plain: ok
    Phrase(
        r"(?:have|has|had|having) (?:the|its|their|an?|it|them) (?:[\w`'-]+ )?"
        "(?:called|checked|closed|counted|deleted|done|loaded|made|probed|read|replayed|sent|stored|written)",
        "write what the actor does: 'deletes the key', 'makes the node delete the key'",
    ),
    Phrase("(?:go|goes|going|went) on", "write 'continues', 'is repeated'"),  # plain: ok
    Phrase("(?:let|lets|letting) go", "write 'releases'"),  # plain: ok
    Phrase("tells?", "write 'says', 'reports', 'sends', 'notifies'"),  # plain: ok
    Phrase("seldom", "write 'rarely', or name the interval"),  # plain: ok
    Phrase("so long as", "write 'while'"),  # plain: ok
    Phrase("where that must not be", "write 'if that is not acceptable'"),  # plain: ok
    Phrase("in the place of", "write 'instead of'"),  # plain: ok
    Phrase(r"as (?:(?:the|its|their|an?) )?[\w.`']+ says?", "write 'according to …'"),  # plain: ok
    Phrase("stands(?! for)", "write 'exists', 'is stored', 'is open'"),  # plain: ok
    Phrase(rf"(?:test_)?(?:{_MODULES})\.(?:py|lua|sql)", "name a module after a noun of the glossary"),
)
_MODULE_NAME = re.compile(rf"(?:test_)?(?:{_MODULES})")


class Finding(NamedTuple):
    """A phrase in a file.

    Attributes:
        path: The file, from the top of the repository.
        line: The line where the phrase begins, from 1.
        text: The phrase as it is written there.
        instead: What to do about it.
    """

    path: Path
    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        """Return the finding in the form that editors and CI turn into a link."""
        return f"{self.path}:{self.line}: {self.text!r}: {self.instead}"


def find_in_text(text: str, suffix: str, path: Path = Path()) -> Iterator[Finding]:
    """Yield the findings in the text of one file.

    Args:
        text: The whole file.
        suffix: The end of its name, such as ``.py``: it says which parts are prose.
        path: What the findings name as their file.
    """
    prose = _python_prose(text) if suffix == ".py" else _prose(text, suffix)
    lines = text.splitlines()
    for phrase in PHRASES:
        for match in phrase.regex.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            if EXEMPT not in lines[line - 1]:
                yield Finding(path, line, " ".join(match[0].split()), phrase.instead)


def _prose(text: str, suffix: str) -> str:
    """Return a text of the same length and lines, with the marks of its comments blanked out."""
    if suffix in {".lua", ".sql"}:
        return text.replace("--", "  ")
    if suffix in {".yaml", ".yml"}:
        return text.replace("#", " ")
    return _GENERATED.sub(lambda part: re.sub(r"[^\n]", _CODE, part[0]), text)


def _python_prose(source: str) -> str:
    """Return a text of the same lines that holds only the comments and strings of Python code.

    Quotes and the ``#`` of a comment become blanks, so that a sentence reads on across lines.
    """
    lines = source.splitlines(keepends=True)
    canvas = [[character if character.isspace() else _CODE for character in line] for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
            continue
        (first, start), (last, end) = token.start, token.end
        for number in range(first - 1, last):
            begin, stop = start if number == first - 1 else 0, end if number == last - 1 else None
            canvas[number][begin:stop] = re.sub(r"[\"'#]|(?<=#):", " ", lines[number][begin:stop])
    return "".join(character for line in canvas for character in line)


def find_phrases(places: Iterable[Path]) -> Iterator[Finding]:
    """Yield the findings in files, and in every file of folders.

    Args:
        places: Files and folders; one that does not exist is skipped.
    """
    for path in sorted({file for place in places for file in _files(place)}):
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        if _MODULE_NAME.fullmatch(path.stem) and path.suffix != ".md":
            yield Finding(shown, 1, path.name, "name a module after a noun of the glossary")
        text = path.read_text(encoding="utf-8")
        yield from sorted(find_in_text(text, path.suffix, shown), key=lambda finding: finding.line)


def _files(place: Path) -> Iterator[Path]:
    found = place.rglob("*") if place.is_dir() else [place]
    for path in found:
        parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else path.parts[-1:]
        is_ours = not any(part in SKIPPED or part.startswith(".") for part in parts)
        if is_ours and path.suffix in SUFFIXES and path.is_file():
            yield path


def main(arguments: list[str] | None = None) -> int:
    """Print the findings; return the exit code."""
    parser = argparse.ArgumentParser(description="Find phrases that are hard to read.")
    parser.add_argument("places", nargs="*", help="files and folders (default: the whole repository)")
    parser.add_argument(
        "--count",
        action="store_true",
        help="print the number of findings in each top-level folder",
    )
    given = parser.parse_args(arguments)
    default = ["."]
    findings = list(find_phrases((ROOT / place).resolve() for place in given.places or default))
    if given.count:
        counts = Counter(finding.path.parts[0] for finding in findings)
        lines = [f"{count:6} {folder}" for folder, count in counts.most_common()]
        lines.append(f"{len(findings):6} in all")
    else:
        lines = [str(finding) for finding in findings]
    if lines:
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings and not given.count else 0


if __name__ == "__main__":
    sys.exit(main())

"""The check of ``make lint`` for phrases that are hard to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import plain_language
from docs.plain_language import ROOT, find_in_text, find_phrases, main


def found(text: str, suffix: str = ".py") -> list[tuple[int, str]]:
    """Return the line and the text of each finding."""
    return [(finding.line, finding.text) for finding in find_in_text(text, suffix)]


def test_the_first_pages_are_in_plain_language() -> None:
    """``make lint`` checks the whole repository."""
    assert [str(finding) for finding in find_phrases([ROOT / "README.md", ROOT / "docs"])] == []


@pytest.mark.parametrize(
    "phrase",
    [
        "for who",  # plain: ok
        "but for",  # plain: ok
        "Anew",  # plain: ok
        "for to",  # plain: ok
        "So many",  # plain: ok
        "for so long",  # plain: ok
        "whoever",  # plain: ok
        "Whatever",  # plain: ok
        "once in a while",  # plain: ok
        "vouched",  # plain: ok
        "is no use",  # plain: ok
        "are to be",  # plain: ok
        "is not to be",  # plain: ok
        "they are no",  # plain: ok
        "have it done",  # plain: ok
        "goes on",  # plain: ok
        "Let go",  # plain: ok
        "tells",  # plain: ok
        "seldom",  # plain: ok
        "so long as",  # plain: ok
        "Where that must not be",  # plain: ok
        "in the place of",  # plain: ok
        "as Django says",  # plain: ok
        "stands",  # plain: ok
        "farewell.py",  # plain: ok
    ],
)
def test_each_phrase_is_found(phrase: str) -> None:
    """With any capitals, at word boundaries."""
    assert found(f"# It {phrase} it\n") == [(1, phrase)]
    assert found(f"# It un{phrase}ish it\n") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "There are no rows.",
        "<li>There are no rows.",
        "They are no longer used.",
        "They have a copy, counted once.",
        "It has been read.",
    ],
)
def test_plain_sentences_with_similar_words_are_not_found(sentence: str) -> None:
    """A pattern does not match more than the phrase that it is for."""
    assert found(f"{sentence}\n", ".md") == []


def test_comments_docstrings_and_strings_of_python_are_read() -> None:
    """And nothing else of its code."""
    text = '"""Made anew."""\nanew = whatever("so many")  # for who\n'  # plain: ok
    assert found(text) == [(2, "for who"), (1, "anew"), (2, "so many")]  # plain: ok


def test_a_phrase_may_be_broken_over_two_lines() -> None:
    """In comments, in docstrings and in strings that are joined; the first line is named."""
    assert found("x = 1\n# It is for\n#: who asks\n") == [(2, "for who")]  # plain: ok
    assert found('"""It is for\n    who asks."""\n') == [(1, "for who")]  # plain: ok
    assert found('x = ("all but "\n     "for one")\n') == [(1, "but for")]  # plain: ok
    assert found('x = ("but", "for")\n') == []
    assert found("-- it is for\n-- who asks\n", ".lua") == [(1, "for who")]  # plain: ok


def test_a_line_may_quote_a_phrase_on_purpose() -> None:
    """If it says so in a comment, in the syntax of its language."""
    assert found('x = "anew"  # plain: ok\n') == []
    assert found("`anew` <!-- plain: ok -->\n", ".md") == []
    assert found("# anew\n# plain: ok\n") == [(1, "anew")]  # plain: ok


def test_generated_parts_of_pages_are_skipped() -> None:
    """They are checked where they are written."""
    page = "<!-- generated: errors -->\nmade anew\n<!-- end generated -->\nmade anew\n"  # plain: ok
    assert found(page, ".md") == [(4, "anew")]  # plain: ok


def test_a_module_is_named_after_a_noun(tmp_path: Path) -> None:
    """The names that said nothing do not come back, for tests neither."""
    for name in ("beats.py", "test_glance.py", "heartbeat.py"):  # plain: ok
        (tmp_path / name).touch()
    assert [finding.text for finding in find_phrases([tmp_path])] == [
        "beats.py",  # plain: ok
        "test_glance.py",  # plain: ok
    ]


def test_the_command_says_where_and_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each finding, and exit code 1; a count of them is not a failure."""
    page = tmp_path / "page.md"
    page.write_text("Plain.\n\nMade anew.\n")  # plain: ok
    assert main([str(page)]) == 1
    assert capsys.readouterr().out == f"{page}:3: 'anew': write 'again'\n"  # plain: ok
    assert main(["--count", str(page)]) == 0
    assert "1 in all" in capsys.readouterr().out
    page.write_text("Plain.\n")
    assert main([str(page)]) == 0


def test_the_count_is_by_top_level_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder with the most findings comes first."""
    monkeypatch.setattr(plain_language, "ROOT", tmp_path)
    for name, text in (("a/x.md", "anew\n"), ("b/x.md", "anew\n\nanew\n")):  # plain: ok
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    main(["--count"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["2", "b"],
        ["1", "a"],
        ["3", "in", "all"],
    ]

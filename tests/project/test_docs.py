"""The documentation: it builds without a warning, its examples run, and its generated parts are current."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.cache import cache
from django.db import models
from django.db.models import F
from django.db.models.functions import Greatest, Least
from django.test.utils import isolate_apps
from django.utils import timezone

import cachebackend
from cachebackend import tasks, testing
from cachebackend.invalidation import watched
from cachebackend.options import RingOptions, WriteBehindOptions
from cachebackend.schedule import beat_schedule
from cacheproject.demo.models import Article
from docs import docstrings, generated

ROOT = Path(settings.BASE_DIR)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Files of the reader's project that pages name.
THEIRS = {"celery.py", "conftest.py", "models.py", "settings.py", "urls.py"}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"manage\.py (\w+)(?: (\w+))?")
#: Quoted text and comments: a shell expands no file names in them.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|(^|\s)#.*")


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def lines_for_a_shell(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, and of its indented commands."""
    indented = re.findall(
        r"^ {4}((?:make|python|celery) .*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [*(line for block in blocks(page, "sh") for line in block.splitlines()), *indented]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names that examples may use without an import; models of examples are unregistered afterwards."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    for number in (1, 2, 3):
        Article.objects.create(pk=number, slug="xyz"[number - 1], title=f"Title {number}")
    return {
        "Article": Article,
        "F": F,
        "Greatest": Greatest,
        "Least": Least,
        "article": Article.objects.get(pk=1),
        "beat_schedule": beat_schedule,
        "build": dict,
        "build_report": dict,
        "cache": cache,
        "data": {"a": 1},
        "keys": ["a", "b"],
        "models": models,
        "now": timezone.now(),
    } | {name: getattr(cachebackend, name) for name in cachebackend.__all__}


def run_block(text: str, names: dict[str, Any]) -> None:
    """Run an example, statement by statement; a statement that awaits runs in an event loop."""
    if "(models.Model)" in text:
        names = names | {"__name__": "cacheproject.demo.models"}
        with isolate_apps("cacheproject.demo"):
            exec(text, names)
        return
    for statement in ast.parse(text).body:
        awaits = any(isinstance(node, ast.Await) for node in ast.walk(statement))
        is_definition = isinstance(statement, ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef)
        code = compile(
            ast.Module([statement], []),
            "example",
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if awaits and not is_definition else 0,
        )
        if code.co_flags & inspect.CO_COROUTINE:
            async_to_sync(_awaited)(code, names)
        else:
            exec(code, names)
    for alias, given in names.pop("CACHES", {}).items():
        RingOptions.read(given["LOCATION"], given.get("OPTIONS", {}), f"CACHES[{alias!r}]")
    WriteBehindOptions.read(names.pop("WRITE_BEHIND", {}))


async def _awaited(code: Any, names: dict[str, Any]) -> None:
    await eval(code, names)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every link and every picture of a page exists."""
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "-q",
            "-b",
            "html",
            "-d",
            tmp_path / "trees",
            "docs",
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "lease_timeout" in (tmp_path / "settings.html").read_text(encoding="utf-8")
    assert "generated:" not in "".join(page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html"))


def test_generated_parts_are_up_to_date() -> None:
    """Settings, counters, errors, checks, commands and the API are in the pages as the code has them.

    If this fails: ``python -m docs.generated`` writes them.
    """
    assert [page.name for page in generated.stale_pages()] == []


def test_a_generated_part_is_replaced_between_its_marks() -> None:
    """The text around it stays, and a second run changes nothing."""
    page = "before\n<!-- generated: errors -->\nold\n<!-- end generated -->\nafter\n"
    filled = generated.filled(page)
    assert filled.startswith("before\n<!-- generated: errors -->\n\n| error |")
    assert filled.endswith(" |\n\n<!-- end generated -->\nafter\n")
    assert "old\n" not in filled
    assert generated.filled(filled) == filled


def test_the_reference_names_all_that_is_public() -> None:
    """Every public name of the package, every method of the cache's, and each task."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    heads = set(re.findall(r"^#+ `(?:cachebackend\.)?([\w.]+)`$", page, re.MULTILINE))
    assert heads >= set(cachebackend.__all__)
    assert heads >= {f"tasks.{name}" for name in tasks.__all__} | {"schedule.beat_schedule"}
    assert heads >= {f"testing.{name}" for name in testing.__all__}
    assert heads >= {"get", "set", "get_or_set", "invalidate_tags", "lock", "in_bulk", "update_many"}


def test_a_docstring_becomes_markdown() -> None:
    """Sections become lists, code keeps one backtick, and nothing is taken for HTML."""
    text = """Store ``{"a": 1}`` for <key>.

    Args:
        key: The key,
            of any length.

    More of it.

    Source: the manual.
    """
    assert docstrings.markdown_of(text) == (
        'Store `{"a": 1}` for &lt;key>.\n\nArguments:\n\n- `key`: The key, of any length.\n\n'
        "More of it.\n\nSource: the manual."
    )


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.stem)
def test_links_between_files_of_the_repository_lead_somewhere(page: Path) -> None:
    """Those of the pages that are not part of the site, whose links Sphinx does not check."""
    targets = re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_nodes")
@pytest.mark.parametrize(
    "page",
    # tests/project/test_quickstart.py and test_tutorial.py run the other pages
    [page for page in PAGES if blocks(page, "python") and page.stem not in {"cache-queries", "quickstart"}],
    ids=lambda page: page.stem,
)
def test_examples_run(page: Path, names: dict[str, Any]) -> None:
    """The Python of a page runs from top to bottom on the ring; its settings are valid."""
    with testing.empty_queue():  # as in a reader's tests
        for text in blocks(page, "python"):
            try:
                run_block(text, names)
            except Exception as error:
                error.add_note(f"in {page.name}:\n{text}")
                raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_exist(page: Path) -> None:
    """Every ``make`` target, and every management command with its action."""
    from django.core.management import get_commands, load_command_class

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    apps = get_commands()
    for line in lines_for_a_shell(page):
        if line.startswith("make "):
            assert line.split()[1] in targets, line
        for name, action in _COMMANDS.findall(line):
            assert name in apps, line
            parser = load_command_class(str(apps[name]), name).create_parser("manage.py", name)
            choices = [each.choices for each in parser._actions if each.choices and not each.option_strings]
            if choices:
                assert action in choices[0], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_shell_accepts_the_commands_of_a_page(page: Path) -> None:
    """As they are written: zsh refuses a ``?``, ``*`` or ``[`` outside quotes that matches no file."""
    inline = re.findall(r"`((?:pip|python|make|celery) [^`]*)`", page.read_text(encoding="utf-8"))
    for line in [*lines_for_a_shell(page), *inline]:
        assert not re.search(r"[?*\[]", _QUOTED.sub("", line)), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Each module, script and folder of tests, so that a newcomer who follows a page finds them."""
    named = re.findall(r"`([\w./]+(?:\.py|\.lua)|tests/\w+|\w+/)`", page.read_text(encoding="utf-8"))
    assert [
        name
        for name in named
        if name not in THEIRS
        and not (ROOT / name).exists()
        and not any((ROOT / "cachebackend").rglob(name.rstrip("/")))
    ] == []


def test_the_architecture_page_has_the_layers_that_are_enforced() -> None:
    """In the order of the contract, each with every package of that layer."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    enforced = [re.findall(r"\w+", layer) for layer in linter["contracts"][0]["layers"]]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, shown = page.partition("| layer | what |")
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in shown.partition("\n\n")[0].splitlines()[2:]]
    assert list(map(sorted, rows)) == list(map(sorted, enforced))


def test_every_log_event_is_documented() -> None:
    """With its level and its fields, and what to do about it; and no event that does not exist."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cachebackend").rglob("*.py"))
    logged = set(re.findall(r'"event": "(\w+)"|log_limited\(\s*"(\w+)"', source))
    events = {one or other for one, other in logged}
    table = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == events
    assert documented("## Log events") == events


def test_every_system_check_is_documented() -> None:
    """With what to do about it; and no check that does not exist."""
    folder = ROOT / "cachebackend" / "checks"
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    assert documented("## System checks") == set(re.findall(r"ringcache\.[EW]\d{3}", source))


def test_log_messages_that_a_page_quotes_exist() -> None:
    """A reader finds a message of the log by the words that the page quotes."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cachebackend").rglob("*.py"))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    text = page.partition("### Messages without an event\n")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert quoted
    assert [message for message in quoted if message not in source] == []


def test_the_readme_is_short() -> None:
    """A newcomer reads it in one go: at most 180 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def documented(section: str) -> set[str]:
    """Return the names in the first column of a section's table in the page on troubleshooting."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    text = page.partition(f"\n{section}\n")[2].partition("\n#")[0]
    return set(re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE))

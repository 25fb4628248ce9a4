"""Docstrings in Google style as Markdown, for the API reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["attributes_of", "class_entry", "function_entry", "markdown_of"]

#: Sections of a docstring, by the heading that the page gives them.
_SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Source": "Source",
    "Yields": "Yields",
}
_HEAD = re.compile(rf"^({'|'.join(_SECTIONS)}):(?: (.*))?$")
_ITEM = re.compile(r"^    ([\w*.]+): (.*)$")
#: The longest signature that is shown on one line.
_LINE = 88


def attributes_of(docstring: str) -> dict[str, str]:
    """Return the text of each entry of the section ``Attributes:``, in one line."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    return dict(_items(section.splitlines()))


def _items(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each entry of a section."""
    name, text = "", ""
    for line in lines:
        if match := _ITEM.match(line):
            if name:
                yield name, text
            name, text = match[1], match[2]
        elif name and line.startswith("     "):
            text += " " + line.strip()
        elif name and line.strip():
            break
    if name:
        yield name, text


def markdown_of(docstring: str) -> str:
    """Return a docstring as Markdown: its text, then each section as a list."""
    parts: list[str] = []
    for name, lines in _split(inspect.cleandoc(docstring)):
        text = "\n".join(lines).strip("\n")
        items = list(_items(lines)) if name in _SECTIONS else []
        if items:
            parts.append(f"{_SECTIONS[name]}:\n\n" + "\n".join(f"- `{item}`: {said}" for item, said in items))
        elif name:
            parts.append(f"{_SECTIONS[name]}: {' '.join(text.split())}")
        elif text:
            parts.append(text)
    return _plain_code("\n\n".join(parts))


def _split(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the parts of a docstring: the name of a section, empty for plain text, and its lines."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if match := _HEAD.match(line):
            yield name, lines
            name, lines = match[1], [match[2]] if match[2] else []
        elif name and line and not line.startswith(" "):
            yield name, lines
            name, lines = "", [line]
        else:
            lines.append(line)
    yield name, lines


def _plain_code(text: str) -> str:
    """Return a text whose code has single backticks, and in which nothing else looks like HTML."""
    pieces = re.split(r"(``.*?``|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(
        f"`{piece.strip('`')}`" if number % 2 else piece.replace("<", "&lt;")
        for number, piece in enumerate(pieces)
    )


def function_entry(function: Callable[..., Any], name: str, twin: str = "", level: int = 4) -> str:
    """Return the entry of a function or method: a heading, its signature and its docstring.

    Args:
        function: The function.
        name: What the heading calls it.
        twin: The name of its async twin; empty if there is none.
        level: The level of the heading.
    """
    last = f"\n\nAsync twin: `{twin}`." if twin else ""
    head = f"{'#' * level} `{name}`\n\n```py\n{_signature(function, name.rpartition('.')[2])}\n```"
    return f"{head}\n\n{markdown_of(function.__doc__ or '')}{last}"


def class_entry(cls: type[Any], name: str, hidden: frozenset[str]) -> str:
    """Return the entry of a class and, below it, one for each public method that is ours.

    Args:
        cls: The class. Methods that it inherits from Django are left to Django's documentation, and so are
            those that only pass on to Django's, which have no docstring.
        name: What the heading calls it.
        hidden: Methods that only the library itself calls.
    """
    # typing gives a class that is derived from a Protocol an __init__ when it is first instantiated
    is_ours = getattr(vars(cls).get("__init__"), "__module__", "").startswith("cachebackend")
    own = is_ours and cls.__name__ not in {"RingCache", "CachedFunction"}
    head = f"### `{name}`\n\n"
    if own:
        head += f"```py\nclass {_signature(cls.__init__, cls.__name__)}\n```\n\n"
    methods = {
        word: value
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("cachebackend")
        for word, value in vars(base).items()
        if not word.startswith("_") and word not in hidden
    }
    entries = [
        function_entry(value, word, f"a{word}" if f"a{word}" in methods else "")
        for word, value in sorted(methods.items())
        if inspect.isfunction(value)
        and value.__doc__
        and not (word.startswith("a") and hasattr(cls, word[1:]))
    ]
    return "\n\n".join([head + markdown_of(cls.__doc__ or ""), *entries])


def _signature(function: Callable[..., Any], name: str) -> str:
    """Return ``def name(…) -> …``, one parameter a line if it is long."""
    signature = inspect.signature(function)
    parameters = [_parameter(each) for each in signature.parameters.values() if each.name != "self"]
    kinds = [each.kind for each in signature.parameters.values() if each.name != "self"]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    word = "" if name[:1].isupper() else "async def " if inspect.iscoroutinefunction(function) else "def "
    returns = signature.return_annotation
    arrow = f" -> {_annotation(returns)}" if word and returns is not inspect.Signature.empty else ""
    line = f"{word}{name}({', '.join(parameters)}){arrow}"
    if len(line) <= _LINE:
        return line
    return f"{word}{name}(\n" + "".join(f"    {each},\n" for each in parameters) + f"){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    text = stars.get(parameter.kind.name, "") + parameter.name
    typed = parameter.annotation is not inspect.Parameter.empty
    if typed:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not inspect.Parameter.empty:
        shown = repr(parameter.default).replace("'", '"')
        shown = "DEFAULT_TIMEOUT" if " at 0x" in shown else shown
        text += f" = {shown}" if typed else f"={shown}"
    return text


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else str(getattr(annotation, "__name__", annotation))
    return text.replace("protocol.", "").replace("reads.", "")

"""The Sphinx configuration of the site."""

import re

#: Marks the parts of a page that ``docs/generated.py`` writes; a reader of the site does not see them.
_MARK = re.compile(r"^<!-- (?:generated: .*|end generated) -->\n", re.MULTILINE)

project = "django-ringcache"
author = "the authors of django-ringcache"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
smartquotes = False  # it would make one dash of the two in front of an option
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_show_copyright = False
html_show_sourcelink = False
templates_path: list[str] = []


def setup(app: object) -> None:
    """Register what happens when a page is read."""
    app.connect("source-read", _without_marks)  # type: ignore[attr-defined]


def _without_marks(app: object, name: str, source: list[str]) -> None:
    source[0] = _MARK.sub("", source[0])

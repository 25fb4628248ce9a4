"""The templates of the page: every text can be translated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.template.loader import get_template

PAGES = ("ring", "ring_confirm", "ring_fault", "ring_nodes", "ring_processes", "ring_runbook")
STATUS_PAGES = ("status", "status_fault")


@pytest.mark.parametrize("name", [*PAGES, *STATUS_PAGES])
def test_every_text_of_the_page_can_be_translated(name: str) -> None:
    """Outside of the tags of Django's templates there is no word, in texts and in labels."""
    source = Path(get_template(f"cachebackend/{name}.html").origin.name).read_text()
    source = re.sub(r"{% blocktranslate.*?endblocktranslate %}|{%.*?%}|{{.*?}}", "", source, flags=re.DOTALL)
    labels = r'(?:aria-label|data-label|value|title)="([^"]*)"'
    texts = re.findall(r">([^<]*)<", source) + re.findall(labels, source)
    words = {
        "ms",
        "rsaquo",
        "on",
        "delete_key",
        "delete_tag",
        "clear_node",
    }  # units, entities, fields' values
    assert set(re.findall(r"[a-zA-Z_]{2,}", " ".join(texts))) <= words

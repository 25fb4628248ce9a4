"""``compose.yaml``: valid, and careful."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from cacheproject.launch import MANAGE

COMPOSE = MANAGE.parent / "compose.yaml"
#: Runs to its end, and must write where the packages go.
INSTALLS = "packages"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What the file says."""
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return found


def test_it_is_valid() -> None:
    """By the schema of the compose specification."""
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    finished = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_each_service_is_pinned_bounded_and_watched(compose: dict[str, Any]) -> None:
    """A version of its image, limits, a health check where it serves, no root where that is ours to say."""
    for name, service in compose["services"].items():
        assert re.search(r":\d", service["image"]), name
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys(), name
        if name not in {INSTALLS, "worker", "beat"}:
            assert "healthcheck" in service, name
        if service["image"].startswith("python") and name != INSTALLS:
            assert service["user"] == "1000:1000", name


def test_what_must_last_has_a_volume_and_nothing_is_published_but_the_site(compose: dict[str, Any]) -> None:
    """The site on the loopback address alone."""
    for name in ("queue-a", "broker", "postgres"):
        assert service_volumes(compose, name) & compose["volumes"].keys()
    published = {
        name: service["ports"] for name, service in compose["services"].items() if "ports" in service
    }
    assert published == {"web": ["127.0.0.1:8000:8000"]}


def test_secrets_have_no_defaults() -> None:
    """Each variable that must be given is in .env.example, empty."""
    wanted = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    example = (MANAGE.parent / ".env.example").read_text()
    assert wanted == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))


def service_volumes(compose: dict[str, Any], name: str) -> set[str]:
    return {volume.partition(":")[0] for volume in compose["services"][name]["volumes"]}

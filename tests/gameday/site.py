"""A small site as it runs in production, and what an operator can ask it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis

from cachebackend.testing.embedded import die_with
from cacheproject.processes import MANAGE, free_port, worker_command
from cacheproject.services import Services

__all__ = ["ARTICLES", "Answer", "Site", "wait_for"]

TOKEN = "the-token-of-the-game-day"
#: The articles that the load reads; each read counts a view behind.
ARTICLES = [f"game-{number}" for number in range(20)]
LOAD_PAUSE_SECONDS, POLL_SECONDS, START_SECONDS, END_SECONDS = 0.1, 0.2, 90.0, 20.0
COMMAND_SECONDS = 90.0
_BEAT = [sys.executable, "-m", "celery", "--quiet", "-A", "cacheproject", "beat", "-l", "warning"]
#: The processes of the site besides its web server, each with its command.
_COMMANDS = {
    "worker": worker_command("celery,drains", 2),
    "periodic": worker_command("periodic", 1),
    "beat": [*_BEAT, "--scheduler", "celery.beat.Scheduler", "--pidfile="],
}


class Answer(NamedTuple):
    """What a command printed, without colors and line breaks, and its exit code."""

    code: int
    text: str


class Site:
    """Three ring nodes, a queue node, Postgres, a web server, two workers and beat, under a light load.

    Args:
        services: The servers.
        timeout: Seconds after which a node counts as not answering. The default of the options is for
            machines with idle processors.
    """

    def __init__(self, services: Services, timeout: float) -> None:
        self.services = services
        #: How often the pages of the site were served, by the status of the response; 0: none came.
        self.responses: Counter[int] = Counter()
        #: What an incident keeps for its end, such as a connection.
        self.kept: dict[str, Any] = {}
        options = json.dumps({"connect_timeout": timeout, "socket_timeout": timeout})
        self._environment = os.environ | services.env()
        self._environment |= {"RING_OPTIONS": options, "WRITE_BEHIND_OPTIONS": options}
        self._environment |= {"RING_STATUS_TOKEN": TOKEN, "RING_METRICS_TOKEN": TOKEN}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        self._ended = threading.Event()
        self._load = threading.Thread(target=self._read_pages, daemon=True)

    # The processes

    def start(self) -> None:
        """Start all processes, and the load; return when the status page says that all is well."""
        for name in _COMMANDS:
            self.start_process(name)
        self.start_web("web")
        self._load.start()
        wait_for(lambda: not self.faults(), START_SECONDS)

    def start_process(self, name: str) -> None:
        """Start a worker or beat."""
        self._run(name, _COMMANDS[name])

    def start_web(self, name: str, **environment: str) -> None:
        """Start a web server, with some settings of its own; return when it has answered a request.

        Raises:
            RuntimeError: It did not.
        """
        port = self._ports[name] = free_port(0)
        command = [sys.executable, str(MANAGE), "runserver", "--noreload", f"127.0.0.1:{port}"]
        self._run(name, command, environment)
        process = self._processes[name]
        wait_for(lambda: self._status_of(name, "/") or process.poll() is not None, START_SECONDS)
        if not self._status_of(name, "/"):
            message = f"{name} does not answer:\n{self.log()[-2000:]}"
            raise RuntimeError(message)

    def end_process(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process; it is killed if it takes long."""
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End the load and all processes."""
        self._ended.set()
        if self._load.is_alive():
            self._load.join()
        for name in list(self._processes):
            self.end_process(name)

    def _run(self, name: str, command: Iterable[str], environment: Mapping[str, str] | None = None) -> None:
        with self._log_file(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                list(command),
                cwd=MANAGE.parent,
                env=self._environment | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), signal.SIGTERM),  # noqa: PLW1509  # it only makes a system call
            )

    # What an operator asks

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults of the status page: one for each cause, with its consequences."""
        data: dict[str, Any] = json.loads(self._get("web", "/ring-status/?format=json"))
        return list(data["faults"])

    def page(self) -> str:
        """Return the text of the status page, as a browser shows it."""
        return _plain(re.sub(r"<[^>]+>", "", self._get("web", "/ring-status/")))

    def metrics(self) -> dict[str, float]:
        """Return the samples of a scrape, by the name with its labels."""
        lines = self._get("web", "/metrics/").splitlines()
        samples = (line.rpartition(" ") for line in lines if line.startswith("ringcache_"))
        return {name: float(value) for name, _, value in samples}

    def commands(self, *commands: str) -> dict[str, Answer]:
        """Run management commands in a new process, as an operator does; return the answer of each."""
        finished = subprocess.run(
            [sys.executable, "-m", "tests.gameday.commands", *commands],
            cwd=MANAGE.parent,
            env=self._environment | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=True,
        )
        answers = json.loads(finished.stdout.splitlines()[-1])
        return {words: Answer(code, _plain(text)) for words, (code, text) in answers.items()}

    def command(self, words: str) -> Answer:
        """Run one management command."""
        return self.commands(words)[words]

    def log(self, since: Mapping[str, int] | None = None) -> str:
        """Return what the processes have logged.

        Args:
            since: What ``log_lengths`` returned: only what was logged after that is returned.
        """
        texts = {name: self._log_file(name).read_text(errors="replace") for name in self._logged()}
        return "\n".join(text[(since or {}).get(name, 0) :] for name, text in texts.items())

    def log_lengths(self) -> dict[str, int]:
        """Return the number of characters that each process has logged."""
        return {name: len(self._log_file(name).read_text(errors="replace")) for name in self._logged()}

    def _logged(self) -> list[str]:
        return [name for name in ("web", "web-2", *_COMMANDS) if self._log_file(name).exists()]

    def _log_file(self, name: str) -> Path:
        return self.services.folder / f"{name}.log"

    def node(self, name: str) -> redis.Redis:
        """Return a connection to a server, for what an incident changes on it."""
        return redis.Redis.from_url(self.services.node_url(name).partition("?")[0])

    # Requests

    def address(self, name: str) -> str:
        """Return the URL of a web server."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def _get(self, name: str, path: str) -> str:
        login = base64.b64encode(f"operator:{TOKEN}".encode()).decode()
        scheme = f"Bearer {TOKEN}" if path == "/metrics/" else f"Basic {login}"
        request = urllib.request.Request(self.address(name) + path, headers={"Authorization": scheme})
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def _status_of(self, name: str, path: str) -> int:
        try:
            self._get(name, path)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0
        return 200

    def _read_pages(self) -> None:
        number = 0
        while not self._ended.wait(LOAD_PAUSE_SECONDS):
            number += 1
            self.responses[self._status_of("web", f"/articles/{ARTICLES[number % len(ARTICLES)]}/")] += 1


def wait_for(condition: Callable[[], object], seconds: float) -> float | None:
    """Return after how many seconds a condition was true; None: it was not, in this time."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return time.monotonic() - began
        if time.monotonic() - began > seconds:
            return None
        time.sleep(POLL_SECONDS)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).replace("&#x27;", "'").replace("&quot;", '"').split())

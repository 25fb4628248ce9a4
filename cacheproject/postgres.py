"""Postgres as one of the services: a new database cluster, run as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cacheproject.binaries import postgres_folder
from cacheproject.server import Server, ServiceError, run_as

__all__ = ["postgres_server"]

_SETTINGS = {"listen_addresses": "127.0.0.1", "max_connections": "60", "max_prepared_transactions": "4"}
#: The data is deleted with the test or demo, so nothing has to reach a disk.
_WITHOUT_DISK = {"fsync": "off", "full_page_writes": "off"}
_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--no-locale",
    "--no-sync",
    "--no-instructions",
)
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def postgres_server(
    folder: Path, on_start: Callable[[int, signal.Signals], None], password: str, *, durable: bool
) -> Server:
    """Create a database cluster and return its server, not started.

    Args:
        folder: The folder for its files. Its path is short, because that of a socket has at most 104 bytes.
        on_start: Called with the process id and the stop signal when the server is started.
        password: The password of the user ``postgres``. A socket does not do without it either.
        durable: Whether each commit is synced to disk.

    Raises:
        ServiceError: ``initdb`` failed.
        MissingBinaryError: Postgres is not installed.
    """
    user = _unprivileged_user()
    binaries = postgres_folder()
    data, sockets = folder / "pg", folder / "s"
    for new in (data, sockets):
        new.mkdir(mode=0o700)
        if user is not None:
            os.chown(new, user.pw_uid, user.pw_gid)
    if user is not None and not _can_run(binaries / "postgres", user):
        binaries = _copied(binaries, folder / "software")
    _create_cluster(binaries, data, password, user)
    settings: Mapping[str, str] = {
        **_SETTINGS,
        **({} if durable else _WITHOUT_DISK),
        "unix_socket_directories": str(sockets),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Server(
        "postgres",
        folder,
        lambda port: [binaries / "postgres", "-D", data, "-p", str(port), *options],
        lambda server: _accepts_connections(server, data),
        signal.SIGQUIT,  # ends at once, but releases its shared memory
        on_start,
        user,
        _ENVIRONMENT,
    )


def _create_cluster(binaries: Path, data: Path, password: str, user: pwd.struct_passwd | None) -> None:
    password_file = data.parent / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if user is not None:
        os.chown(password_file, user.pw_uid, user.pw_gid)
    initdb = subprocess.run(
        [binaries / "initdb", "-D", data, f"--pwfile={password_file}", *_INITDB_OPTIONS],
        check=False,
        env=_ENVIRONMENT,
        cwd="/",
        capture_output=True,
        text=True,
        **run_as(user),
    )
    password_file.unlink()
    if initdb.returncode:
        message = f"initdb failed:\n{initdb.stdout}{initdb.stderr}"
        raise ServiceError(message)


def _copied(binaries: Path, target: Path) -> Path:
    """Copy Postgres to a folder that its user can read: a virtual environment may be in a private home."""
    top = binaries.parents[2]
    for part in (binaries.parent.relative_to(top), Path(f"{binaries.parents[1].name}.libs")):
        if (top / part).is_dir():
            shutil.copytree(
                top / part,
                target / part,
                symlinks=True,
                ignore=shutil.ignore_patterns("include", "*.a", "pgxs"),
            )
    return target / binaries.relative_to(top)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user that Postgres runs as, because it refuses root; None if this process is not root's."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _can_run(binary: Path, user: pwd.struct_passwd) -> bool:
    try:
        subprocess.run([binary, "-V"], check=True, stdout=subprocess.DEVNULL, cwd="/", **run_as(user))
    except PermissionError:
        return False
    return True


def _accepts_connections(server: Server, data: Path) -> bool:
    """Return whether Postgres' pid file names this process (line 1) and is ``ready`` (line 8)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return (
            server.process is not None and lines[0] == str(server.process.pid) and lines[7].strip() == "ready"
        )
    except (OSError, IndexError):
        return False

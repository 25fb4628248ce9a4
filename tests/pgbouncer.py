"""pgbouncer in front of the tests' Postgres, in transaction mode: its connections are shared."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psycopg

from cacheproject.server import Server

__all__ = ["pgbouncer_binary", "pgbouncer_server"]

_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={database_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = 25
"""


def pgbouncer_binary() -> str | None:
    """Return the path of pgbouncer; None if it is not installed. Debian keeps it off the path of users."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def pgbouncer_server(binary: str, folder: Path, database_port: int) -> Server:
    """Return a pgbouncer, not started, in front of the Postgres at a port."""
    configuration = folder / "pgbouncer.ini"

    def command(port: int) -> list[str | Path]:
        configuration.write_text(_CONFIGURATION.format(port=port, database_port=database_port))
        configuration.chmod(0o644)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses root
        return [binary, *user, configuration]

    return Server("pgbouncer", folder, command, _answers, signal.SIGKILL, lambda *_: None)


def _answers(server: Server) -> bool:
    try:
        psycopg.connect(f"postgres://postgres@127.0.0.1:{server.port}/postgres", connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True

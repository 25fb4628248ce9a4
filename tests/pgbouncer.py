"""pgbouncer in front of the tests' Postgres, in transaction mode: its connections are shared.

A test that changes a setting or the role of its session would change it for the tests after it, so both are
reset after each transaction. A server that was restarted is used again at once.
"""

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
* = host=127.0.0.1 port={database_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {users}
pool_mode = transaction
max_client_conn = 200
default_pool_size = 25
server_reset_query = RESET ALL; RESET ROLE; RESET SESSION AUTHORIZATION
server_reset_query_always = 1
server_login_retry = 0.1
"""


def pgbouncer_binary() -> str | None:
    """Return the path of pgbouncer; None if it is not installed. Debian keeps it off the path of users."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def pgbouncer_server(binary: str, folder: Path, database_port: int, password: str) -> Server:
    """Return a pgbouncer, not started, in front of the Postgres at a port, with the same password."""
    configuration, users = folder / "pgbouncer.ini", folder / "pgbouncer.users"

    def command(port: int) -> list[str | Path]:
        values = {"port": port, "database_port": database_port, "users": users}
        configuration.write_text(_CONFIGURATION.format(**values))
        users.touch(mode=0o600)
        users.write_text(f'"postgres" "{password}"\n')
        if os.geteuid() != 0:
            return [binary, configuration]
        shutil.chown(users, "nobody")
        shutil.chown(configuration, "nobody")
        return [binary, "-u", "nobody", configuration]  # it refuses root

    def answers(server: Server) -> bool:
        url = f"postgres://postgres:{password}@127.0.0.1:{server.port}/postgres"
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    return Server("pgbouncer", folder, command, answers, signal.SIGKILL, lambda *_: None)

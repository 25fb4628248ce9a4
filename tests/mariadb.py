"""MariaDB as the database of the tests, as a user that is not root. Django reaches it by PyMySQL.

Texts have the collation that ``docs/production.md`` names for it: the cache finds a row by a text only if
the database compares texts exactly.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from cacheproject.server import Server, ServiceError, run_as

__all__ = ["COLLATION", "mariadb_binary", "mariadb_server", "mariadb_url", "use_pymysql"]

COLLATION = "utf8mb4_nopad_bin"
USER = "ringcache"
_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--character-set-server=utf8mb4",
    f"--collation-server={COLLATION}",
    "--innodb-flush-log-at-trx-commit=0",  # the data is deleted with the tests
    "--innodb-buffer-pool-size=64M",
    "--max-connections=60",
)
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def mariadb_binary(name: str = "mariadbd") -> str | None:
    """Return the path of a program of MariaDB; None if it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def mariadb_server(folder: Path, password: str) -> Server:
    """Create a data folder and return its server, not started.

    Args:
        folder: The folder for its files, with a short path.
        password: The password of the user ``ringcache``.

    Raises:
        ServiceError: The data folder could not be created.
    """
    user = None
    if os.geteuid() == 0:  # it refuses root
        users = {each.pw_name: each for each in pwd.getpwall()}
        user = users.get("mysql") or users["nobody"]
    data, users_file = folder / "mariadb", folder / "mariadb.sql"
    data.mkdir(mode=0o700)
    users_file.touch(mode=0o600)
    users_file.write_text(
        f"CREATE OR REPLACE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'127.0.0.1';\n"
    )
    if user is not None:
        for path in (data, users_file):
            os.chown(path, user.pw_uid, user.pw_gid)
    _install(data, user)
    command = [
        str(mariadb_binary()),
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={data / 'socket'}",
        f"--pid-file={data / 'pid'}",
        f"--init-file={users_file}",
        *_OPTIONS,
    ]
    return Server(
        "mariadb",
        folder,
        lambda port: [*command, f"--port={port}"],
        lambda server: _answers(server, password),
        signal.SIGKILL,
        lambda *_: None,
        user,
        _ENVIRONMENT,
    )


def mariadb_url(server: Server, password: str) -> str:
    """Return the URL of a started server."""
    return f"mysql://{USER}:{password}@127.0.0.1:{server.port}/ringcache"


def use_pymysql() -> None:
    """Let Django find PyMySQL where it looks for mysqlclient, which must be compiled."""
    import pymysql

    pymysql.install_as_MySQLdb()


def _install(data: Path, user: pwd.struct_passwd | None) -> None:
    completed = subprocess.run(
        [
            str(mariadb_binary("mariadb-install-db")),
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=socket",  # no account without a password
            "--skip-test-db",
        ],
        check=False,
        env=_ENVIRONMENT,
        cwd="/",
        capture_output=True,
        text=True,
        **run_as(user),
    )
    if completed.returncode:
        message = f"mariadb-install-db failed:\n{completed.stdout}{completed.stderr}"
        raise ServiceError(message)


def _answers(server: Server, password: str) -> bool:
    import pymysql

    try:
        pymysql.connect(host="127.0.0.1", port=server.port, user=USER, password=password).close()
    except pymysql.Error:
        return False
    return True

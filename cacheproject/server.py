"""One server as a child process: started on a free port, waited for, and ended with its parent."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachebackend.testing.embedded import die_with

__all__ = ["Server", "ServiceError", "answers_ping", "run_as"]

#: Seconds that a server may take to start: on a busy machine, and while a killed Postgres is cleaned up.
START_SECONDS = 60.0
#: How many ports are tried: a free port may be taken by another process before the server binds it.
START_TRIES = 5
#: Seconds that a server may take to end before it is killed.
END_SECONDS = 5.0


class ServiceError(RuntimeError):
    """A server did not start."""


@dataclass
class Server:
    """A server: how it is started, and its process.

    Attributes:
        name: The server's name in ``Services``.
        folder: The folder of its log file.
        command: Returns the command line for a port.
        is_ready: Returns whether the server accepts connections.
        stop_signal: The signal that ends the server at once.
        on_start: Called with the process id of each process that is started.
        user: The user that the server runs as; None: the user of this process.
        environment: The environment variables; None: those of this process.
        password: The password that clients must send; None: the server's own settings decide.
        port: The port; 0 before the first start.
        process: The last process that was started.
        is_suspended: Whether the process is suspended, and answers nothing.
    """

    name: str
    folder: Path
    command: Callable[[int], Sequence[str | Path]]
    is_ready: Callable[[Server], bool]
    stop_signal: signal.Signals
    on_start: Callable[[int, signal.Signals], None]
    user: pwd.struct_passwd | None = None
    environment: dict[str, str] | None = None
    password: str | None = field(default=None, repr=False)
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    is_suspended: bool = False

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def may_answer(self) -> bool:
        """Whether the process runs, and is not suspended."""
        return self.is_running and not self.is_suspended

    def start(self) -> None:
        """Start the process; return before it is ready."""
        self.port, self.is_suspended = self.port or _free_port(), False
        self._log_file.touch(mode=0o600)  # a log holds statements with their values
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), self.stop_signal),  # noqa: PLW1509  # it only makes a system call
                env=self.environment,
                cwd="/",
                **run_as(self.user),
            )
        self.on_start(self.process.pid, self.stop_signal)

    def wait_until_ready(self, *, keep_port: bool = False) -> None:
        """Wait until the server accepts connections; if its port was taken, start it again on another.

        Args:
            keep_port: Whether it is started again on the same port instead.

        Raises:
            ServiceError: The server ended, or is not ready in time.
        """
        end = time.monotonic() + START_SECONDS
        tries = START_TRIES
        while not self.is_ready(self):
            exit_code = None if self.process is None else self.process.poll()
            is_late = time.monotonic() > end
            is_port_taken = exit_code is not None and "in use" in self._log()
            if is_port_taken and not is_late and (keep_port or tries):
                tries -= 1
                self.port = self.port if keep_port else 0
                time.sleep(0.2)
                self.start()
            elif exit_code is not None or is_late:
                message = f"{self.name} did not start ({exit_code}):\n{self._log()[-2000:]}"
                raise ServiceError(message)
            time.sleep(0.01)

    def end(self) -> None:
        """End the process with its stop signal, or kill its process group if that takes too long."""
        if self.process is None:
            return
        if self.is_running:
            self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def _log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _log(self) -> str:
        return self._log_file.read_text(errors="replace")


def answers_ping(server: Server) -> bool:
    """Return whether this Redis or Valkey node answers PING, or requires a password that is not ours.

    Another server may have taken the port before this one could. So the process number in the
    answer must be that of our process; a node that requires another password does not report it.
    """
    assert server.process is not None  # noqa: S101  # the caller started it
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), 0.5) as connection,
            connection.makefile("rb") as replies,
        ):
            if server.password is not None:
                connection.sendall(b"AUTH %s\r\n" % server.password.encode())
                if not replies.readline().startswith(b"+OK"):
                    return False
            connection.sendall(b"PING\r\nINFO server\r\n")
            first = replies.readline()
            if not first.startswith(b"+PONG"):
                return first.startswith(b"-NOAUTH")
            info = replies.read(int(replies.readline()[1:]))
            return b"process_id:%d\r\n" % server.process.pid in info
    except (OSError, ValueError):
        return False


def run_as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of ``subprocess`` that run a process as a user; None: as this process."""
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

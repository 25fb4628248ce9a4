"""Ends the servers of ``services`` when the process that started them is gone, even if it was killed.

Runs as a separate process in its own session. Reads lines ``pid signal`` until the end of its
input, which comes when the parent closes the pipe or dies. Then it ends each process and removes
the folder in its argument. Standard library only, because it runs without site-packages.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

#: Seconds that a process may take to end before its group is killed.
GRACE_SECONDS = 5.0


def _is_ours(pid: int) -> bool:
    """Return whether the process is alive and leads its own group, as every server does."""
    try:
        if os.getpgid(pid) != pid:
            return False
        # process 1 may never reap it, and a zombie still accepts signals
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()  # macOS has no /proc; a gone process has none either


def children_of(pid: int) -> list[int]:
    """Return the children of a process, as Postgres has one for each connection; none without ``/proc``."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def main() -> None:
    """Wait until the parent is gone, then end the processes and remove the folder."""
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    jobs = [tuple(map(int, line.split())) for line in sys.stdin]
    jobs = [(pid, number) for pid, number in jobs if _is_ours(pid)]
    for pid, number in jobs:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
        for process in (pid, *children_of(pid)):  # what is suspended cannot end
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGCONT)
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end and any(_is_ours(pid) for pid, _ in jobs):
        time.sleep(0.02)
    for pid, _ in jobs:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()

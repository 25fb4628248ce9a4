"""Ends what ``services`` started when the process that started it is gone, even killed.

Run as a process of its own, in its own session. Reads ``pid signal`` lines until the end of its input,
which comes when the parent closes its end or dies; then stops each process and removes
the folder it is given. Standard library only, for it runs without site-packages.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

#: How long a process may take to stop before its group is killed.
GRACE_SECONDS = 5.0


def _is_ours(pid: int) -> bool:
    """Return whether the process lives and leads its own group, as all that we start do."""
    try:
        if os.getpgid(pid) != pid:
            return False
        # process 1 may never reap it, and a zombie still takes signals
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()  # macOS has no /proc; a gone process has none either


def main() -> None:
    """Wait for the parent's end, then clean up."""
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    jobs = [tuple(map(int, line.split())) for line in sys.stdin]
    jobs = [(pid, number) for pid, number in jobs if _is_ours(pid)]
    for pid, number in jobs:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that a test stopped cannot end otherwise
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end and any(_is_ours(pid) for pid, _ in jobs):
        time.sleep(0.02)
    for pid, _ in jobs:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()

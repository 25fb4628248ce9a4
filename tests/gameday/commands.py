"""``python -m tests.gameday.commands 'ring doctor' …``: run management commands in turn, in one new process.

On a busy machine it takes longer to start Django than to run a command. Prints a JSON object: for each
command its exit code, and what it printed.
"""

from __future__ import annotations

import json
import os
import sys
from io import StringIO

import django


def run(words: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed."""
    from django.core.management import CommandError, call_command

    out, code = StringIO(), 0
    try:
        call_command(*words.split(), stdout=out, stderr=out)
    except SystemExit as end:
        code = int(end.code or 0)
    except CommandError as error:
        out.write(str(error))
        code = error.returncode
    return code, out.getvalue()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")
    django.setup()
    print(json.dumps({words: run(words) for words in sys.argv[1:]}))

"""Modules that are imported when they are first used, beside forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The module is imported in a thread while the process forks; the child imports it, too.
PROGRAM = """
import os, signal, sys, threading, types
from importlib.machinery import ModuleSpec
from cachebackend.imports import import_at_first_use

begun, forking = threading.Event(), threading.Event()

class Finder:
    def find_spec(self, name, *_):
        return ModuleSpec(name, self) if name == "slow" else None
    def create_module(self, spec):
        return types.ModuleType(spec.name)
    def exec_module(self, module):
        begun.set()
        forking.wait()

sys.meta_path.insert(0, Finder())
os.register_at_fork(before=forking.set)  # runs before the hooks that were registered earlier
thread = threading.Thread(target=import_at_first_use, args=["slow"])
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)  # ends a child that waits forever
    import_at_first_use("slow")
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
"""


def test_a_fork_waits_for_the_imports_of_other_threads() -> None:
    """The child would wait forever for a thread that it does not have."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


#: redis-py is imported in a thread while the process forks; the child does what has imported it, too.
REDIS_PROGRAM = """
import os, secrets, signal, sys, threading  # redis-py imports secrets later; Django has imported it
from cachebackend.cluster import Cluster
from cachebackend.node.endpoint import Endpoint
from cachebackend.node.handshake import Handshake

begun, forking = threading.Event(), threading.Event()

class Finder:
    def find_spec(self, name, *_):
        if name == "redis":
            begun.set()
            forking.wait()

def of_cluster():
    cluster = Cluster.__new__(Cluster)
    cluster.primary_of = lambda slot: ("127.0.0.1", 1)
    cluster._client_at = lambda *_: Handshake("redis://127.0.0.1:1", 1, 1).client()
    cluster.redis(b"key")

def of_node():
    Handshake("redis://127.0.0.1:1", 1, 1).client()

def of_sentinel():
    Endpoint("redis+sentinel://127.0.0.1:1/service", 1, 1)

assert "redis" not in sys.modules
sys.meta_path.insert(0, Finder())
os.register_at_fork(before=forking.set)  # runs before the hooks that were registered earlier
thread = threading.Thread(target=%s)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)  # ends a child that waits forever
    %s()
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
"""


@pytest.mark.parametrize("call", ["of_cluster", "of_node", "of_sentinel"])
def test_a_fork_waits_for_the_import_of_redis_py(call: str) -> None:
    """By the first lock or client of a key, and by the first node behind Sentinel."""
    subprocess.run([sys.executable, "-c", REDIS_PROGRAM % (call, call)], check=True)

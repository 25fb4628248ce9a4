"""A shop's category page, with more and more requests that write a product, beside the peers.

The page reads a category by its slug, the first 20 of its 40 products by price, and their number. A write
is ``save()`` of any product, with another ``stock`` or ``price``. All contenders get the same requests, on
the same servers, in rounds that take turns. A page of any of them must show what the others show.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.bare import BareSocket
from benchmarks.contenders import install_peers
from benchmarks.goals import Goal, Measured, Ratios
from benchmarks.rounds import one_core
from benchmarks.shop import CACHEOPS, CATEGORIES, DJANGO, OURS, SHOPS, Mix, Round, serve
from cacheproject.services import Services

__all__ = ["COUNT", "GET", "GOALS", "IN_BULK", "LIST", "measure"]

ROUNDS, QUICK_ROUNDS = 25, 7
NONE, TENTH, HALF = Mix(0.0, "stock"), Mix(0.1, "stock"), Mix(0.5, "stock")
MIXES = (NONE, Mix(0.01, "stock"), TENTH, HALF, Mix(0.01, "price"), Mix(0.1, "price"), Mix(0.5, "price"))
LIST, IN_BULK, COUNT, GET = "list of 20 instances", "in_bulk of 20 rows", "count()", "cache.get"
ONE_QUERY = "one query a page"
WHY_HIT = (
    "A hit mostly asks one node, for the result, its tag and its shape. The rest is Python: the queryset, "
    "its surroundings, the comparison of tokens. The server on the same core also uses the CPU's caches."
)
WHY_LIST = (
    "The rows are read in the scatter of the list. What remains are the list with its tag and shape, the "
    "queryset, and the comparison of the rows with the query."
)
WHY_SAVE = (
    "The statement returns the old row, and writes the outbox row. Then the writer deletes the row's key and "
    "reads eight parts of the registry, which are on all nodes, and after that it deletes tags."
)
WHY_PAGE = (
    "A page is four round trips to several nodes, where the other library asks one node three times. With "
    "client and servers on one core, the number of sockets decides."
)
GOALS = (
    Goal(f"page, {NONE}", CACHEOPS, 0.6, "at_most", WHY_PAGE),
    Goal(f"page, {TENTH}", CACHEOPS, 0.7, "at_most", WHY_PAGE),
    Goal(f"queries, {TENTH}", ONE_QUERY, 0.08, "at_most"),
    Goal(f"save(), {HALF}", DJANGO, 2.2, "at_most", WHY_SAVE),
    Goal(LIST, IN_BULK, 1.25, "at_most", WHY_LIST),
    Goal(COUNT, GET, 2.0, "at_most", WHY_HIT),
)
_context = multiprocessing.get_context("spawn")


class Contender:
    """A shop in another process.

    Args:
        name: The contender.
        urls: The URLs of the ring's nodes.
    """

    def __init__(self, name: str, urls: list[str]) -> None:
        self.name = name
        self._pipe, other = _context.Pipe()
        self._process = _context.Process(target=serve, args=(name, urls, other), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the shop returns there."""
        self._pipe.send((method, args, kwargs))
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def run_mix(contenders: list[Contender], mix: Mix, rounds: int) -> dict[str, list[Round]]:
    """Return the rounds of each contender; the first one only brings their caches into a usual state."""
    for each in contenders:
        each.ask("warm")
    found: dict[str, list[Round]] = {each.name: [] for each in contenders}
    for number in range(rounds + 1):
        for each in contenders:
            found[each.name].append(each.ask("run", mix, f"{mix} {number}"))
        different = [name for name in SHOPS if found[name][-1].last != found[DJANGO][-1].last]
        if different:
            message = f"the page of {', '.join(different)} is not as in the database"
            raise RuntimeError(message)
    return {name: each[1:] for name, each in found.items()}


def ratios_of(mixes: Mapping[Mix, Mapping[str, list[Round]]]) -> Ratios:
    """Return the ratios of the goals of pages and writes."""
    durations: dict[str, dict[str, list[float]]] = {}
    for mix, of_mix in mixes.items():
        durations[f"page, {mix}"] = {name: [each.page for each in found] for name, found in of_mix.items()}
        durations[f"save(), {mix}"] = {
            name: [each.write or 0.0 for each in found] for name, found in of_mix.items()
        }
        durations[f"queries, {mix}"] = {
            OURS: [statistics.fmean(each.queries for each in of_mix[OURS])],
            ONE_QUERY: [1.0],
        }
    return {
        (goal.work, goal.compared_with): goal.ratios(of_work[OURS], of_work[goal.compared_with])
        for goal in GOALS
        if (of_work := durations.get(goal.work)) is not None
    }


def details_of(of_mix: Mapping[str, list[Round]]) -> dict[str, dict[str, Any]]:
    """Return what a page and a write took of each contender: microseconds and queries."""
    found: dict[str, dict[str, Any]] = {}
    for name, rounds in of_mix.items():
        writes = [each.write for each in rounds if each.write is not None]
        found[name] = {
            "page": round(statistics.median(each.page for each in rounds), 1),
            "queries": round(statistics.fmean(each.queries for each in rounds), 3),
            "write": round(statistics.median(writes), 1) if writes else None,
        }
    return found


def bytes_a_list(contender: Contender, urls: list[str]) -> int:
    """Return by how much the memory of the nodes grows with each cached list, and with its rows."""
    before = _used(urls)
    contender.ask("warm_lists")
    return (_used(urls) - before) // CATEGORIES


def _used(urls: list[str]) -> int:
    """Return the bytes that the nodes use."""
    reports = [BareSocket(url).call(b"INFO", b"memory").splitlines() for url in urls]
    return sum(
        int(line.partition(b":")[2])
        for lines in reports
        for line in lines
        if line.startswith(b"used_memory:")
    )


@contextmanager
def running(services: Services) -> Iterator[list[Contender]]:
    """Run the shops of all contenders for a block."""
    os.environ.update(services.env())
    with ExitStack() as open_shops:
        contenders = []
        for name in SHOPS:
            contenders.append(Contender(name, services.ring_urls))
            open_shops.callback(contenders[-1].close)
        yield contenders


def measure(*, quick: bool) -> Measured:
    """Measure the pages of all contenders."""
    install_peers()
    with one_core(), Services(ring=3, queue=0) as services, running(services) as contenders:
        memory = {
            each.name: bytes_a_list(each, services.ring_urls) for each in contenders if each.name != DJANGO
        }
        mixes = {mix: run_mix(contenders, mix, QUICK_ROUNDS if quick else ROUNDS) for mix in MIXES}
        [ours] = [each for each in contenders if each.name == OURS]
        ours.ask("warm")
        ratios = ratios_of(mixes) | ours.ask("hits", quick=quick)
    pages = {str(mix): details_of(of_mix) for mix, of_mix in mixes.items()}
    return Measured(ratios, {"pages": pages, "bytes_a_list": memory})

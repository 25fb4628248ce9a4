"""Plays an incident, and judges what the page, the metrics, the commands and the logs show of it."""

from __future__ import annotations

import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cachebackend.monitoring.runbook import FaultKind
from tests.gameday.incidents import Incident
from tests.gameday.site import Site, wait_for

__all__ = ["COMMANDS", "HEALTHY", "Outcome", "places_of", "play", "watch_healthy_site"]

HEALTHY = "no incident"
#: The commands that an operator runs; each exits with 1 if it finds a fault.
COMMANDS = ("ring doctor", "ring status", "writebehind status", "invalidation status")
#: Faults that say what happened in the last minutes, so that they outlast the incident.
PAST = frozenset({FaultKind.WRITES_REFUSED, FaultKind.WRITES_DROPPED})
SEEN_SECONDS, PAGE_SECONDS, METRIC_SECONDS, LOG_SECONDS, WELL_SECONDS = 40.0, 5.0, 20.0, 10.0, 60.0
COMMAND_TRIES = 3
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "AGE>": lambda value, seconds: time.time() - value > seconds,
}


@dataclass
class Outcome:
    """What was shown of an incident.

    Attributes:
        name: The incident.
        kind: The kind of the fault that must be shown; empty: none.
        seen: Seconds until the page showed it; None: it did not, or there is nothing to show.
        well: Seconds after the repair until the page showed it no more; None: it still did.
        wrong: What was not shown, or shown wrongly, by where: page, metrics, commands, log, exit codes, end.
        judged: Where something must be shown: page, metrics, commands and log.
        last: The last faults that the page showed after the repair.
        message: The message of the fault.
        way_out: What the page said to do.
        codes: The exit codes of the commands.
        failed_pages: How many pages of the site were not served with 200.
        pages: How many were requested.
    """

    name: str
    kind: str
    seen: float | None = None
    well: float | None = None
    wrong: dict[str, list[str]] = field(default_factory=dict)
    judged: tuple[str, ...] = ()
    last: str = ""
    message: str = ""
    way_out: str = ""
    codes: dict[str, int] = field(default_factory=dict)
    failed_pages: int = 0
    pages: int = 0

    def add(self, where: str, text: str) -> None:
        """Add something that is wrong."""
        self.wrong.setdefault(where, []).append(text)

    def count_pages(self, responses: Counter[int], before: Counter[int]) -> None:
        """Record how many pages of the site were requested, and how many of them were not served with 200."""
        self.pages = responses.total() - before.total()
        self.failed_pages = self.pages - (responses[200] - before[200])


def places_of(incident: Incident) -> tuple[str, ...]:
    """Return where an incident must be shown."""
    page, log = ("page",) if incident.kind else (), ("log",) if incident.log else ()
    return (*page, "metrics", "commands", *log)


def play(site: Site, incident: Incident, look: Callable[[str], None] | None = None) -> Outcome:
    """Play an incident and repair it; return what was shown.

    Args:
        site: The site.
        incident: The incident.
        look: Called with its name as soon as the page shows it.
    """
    outcome = Outcome(incident.name, str(incident.kind or ""), judged=places_of(incident))
    before, logged, served = _kinds(site.faults()), site.log_lengths(), Counter(site.responses)
    incident.begin(site)
    try:
        _judge_page(site, incident, before, outcome)
        if look is not None:
            look(incident.name)
        if wait_for(lambda: _holds(incident.metric, site.metrics()), METRIC_SECONDS) is None:
            outcome.add("metrics", f"not {incident.metric}")
        _judge_commands(site, incident, is_well=not (before or incident.kind), outcome=outcome)
        if wait_for(lambda: incident.log in site.log(logged), LOG_SECONDS) is None:
            outcome.add("log", f"nothing about {incident.log!r}: {site.log(logged)[-600:]}")
    finally:
        incident.end(site)
    ignored = before | (PAST if incident.kind else frozenset())
    outcome.well = wait_for(lambda: _is_well(site, ignored, outcome), WELL_SECONDS)
    if outcome.well is None:
        outcome.add("end", _texts(site.faults()))
    outcome.count_pages(site.responses, served)
    return outcome


def _is_well(site: Site, ignored: frozenset[str], outcome: Outcome) -> bool:
    faults = [each for each in site.faults() if each["kind"] not in ignored]
    outcome.last = _texts(faults) if faults else outcome.last
    return not faults


def watch_healthy_site(site: Site, seconds: float) -> Outcome:
    """Look at a site where nothing is wrong; return what was shown nevertheless."""
    outcome, served = Outcome(HEALTHY, "", judged=("page", "commands")), Counter(site.responses)
    if wait_for(site.faults, seconds) is not None:
        outcome.add("page", _texts(site.faults()))
    for name, answer in site.commands(*COMMANDS).items():
        outcome.codes[name] = answer.code
        if answer.code:
            outcome.add("commands", f"{name}: {answer.text[-300:]}")
    outcome.count_pages(site.responses, served)
    return outcome


def _judge_page(site: Site, incident: Incident, before: frozenset[str], outcome: Outcome) -> None:
    """Wait until the page shows the fault; it must be a cause, and no other cause may be shown."""
    if incident.kind is None:
        return
    outcome.seen = wait_for(lambda: incident.kind in _kinds(site.faults()), SEEN_SECONDS)
    faults = site.faults()
    if outcome.seen is None:
        outcome.add("page", f"not seen in {SEEN_SECONDS:.0f} s; {_texts(faults)}")
        return
    fault = next((each for each in faults if each["kind"] == incident.kind), None)
    if fault is None:
        outcome.add("page", f"it is shown below another fault, or no longer: {_texts(faults)}")
        return
    outcome.message, outcome.way_out = fault["message"], fault["way_out"]
    others = [each for each in faults if each is not fault and each["kind"] not in before]
    if others:
        outcome.add("page", f"shown besides: {_texts(others)}")
    words = (*_words(site, incident), *_plain_words(fault["way_out"]))
    # A figure may pass a limit to and fro: the page is read after the fault
    if wait_for(lambda: not _missing(site, words), PAGE_SECONDS) is None:
        for word in _missing(site, words):
            outcome.add("page", f"does not say {word!r}")
    if wait_for(lambda: _differs(site, incident, before, outcome), incident.steady) is not None:
        outcome.add("page", "is not steady")
    if not fault["way_out"]:
        outcome.add("page", "does not say what to do")


def _missing(site: Site, words: Iterable[str]) -> list[str]:
    """Return what the page does not say."""
    page = site.page()
    return [word for word in words if word not in page]


def _differs(site: Site, incident: Incident, before: frozenset[str], outcome: Outcome) -> bool:
    """Return whether the page shows something else than the incident's fault, and add what."""
    shown = [each for each in site.faults() if each["kind"] not in before]
    kinds = [each["kind"] for each in shown]
    texts = [f"{each['message']} {each['way_out']}" for each in shown]
    missing = [word for word in _words(site, incident) if not any(word in text for text in texts)]
    if kinds == [incident.kind] and not missing:
        return False
    outcome.add("page", f"later, without {missing}: {_texts(shown)}")
    return True


def _words(site: Site, incident: Incident) -> tuple[str, ...]:
    return (*incident.words, *site.kept.get("words", ()))


def _judge_commands(site: Site, incident: Incident, *, is_well: bool, outcome: Outcome) -> None:
    """Run the commands; each must exit as expected, and one must say what the page says."""
    asked = dict.fromkeys((*COMMANDS, incident.says))
    for _ in range(COMMAND_TRIES):  # a process that has just started may not know of it yet
        answers = site.commands(*asked)
        outcome.codes = {name: answers[name].code for name in COMMANDS}
        wrong = list(_wrong_codes(incident, outcome.codes, is_well=is_well))
        missing = [word for word in _words(site, incident) if word not in answers[incident.says].text]
        if not wrong and not missing:
            return
    for text in wrong:
        outcome.add("exit codes", text)
    if missing:
        outcome.add("commands", f"{incident.says} does not say {missing}: {answers[incident.says].text}")


def _wrong_codes(incident: Incident, codes: Mapping[str, int], *, is_well: bool) -> Iterator[str]:
    for name, code in codes.items():
        expected = int(name in incident.fails)
        may_fail = name in incident.may_fail or (name == "ring doctor" and not is_well)
        if code != expected and not (code == 1 and may_fail):
            yield f"{name} exits with {code}, not {expected}"


def _holds(metric: str, samples: Mapping[str, float]) -> bool:
    """Return whether a series, or one of those of a name, has such a value."""
    series, compare, number = metric.rsplit(" ", 2)
    return any(
        _OPERATORS[compare](value, float(number))
        for name, value in samples.items()
        if name == series or name.startswith(f"{series}{{")
    )


def _kinds(faults: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(fault["kind"] for fault in faults)


def _texts(faults: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(f"{fault['kind']}: {fault['message']}" for fault in faults) or "no fault"


def _plain_words(text: str) -> list[str]:
    """Return the sentence as the page has it, without the marks of code."""
    return [" ".join(text.replace("`", "").split())] if text else []

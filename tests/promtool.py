"""``promtool`` of Prometheus, with which tests evaluate the alert rules on recorded metrics.

``PROMTOOL`` names it, or it is on the PATH; ``.ci/run`` installs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["RULES", "Step", "promtool_binary", "unexpected_alerts"]

RULES = Path(__file__).resolve().parents[1] / "docs" / "alerts.yml"
#: Seconds between two samples, and between two evaluations.
INTERVAL = 15
#: The beginning of the recording, in seconds since 1970 by Prometheus' clock in the test.
START = 900


class Step(NamedTuple):
    """A scrape at the beginning of a step, and for how long the site stays as it was then.

    Attributes:
        samples: The value of each series, by its name with labels.
        seconds: For how long.
        growing: The gauges that count the seconds of a state that lasts.
    """

    samples: Mapping[str, float]
    seconds: int
    growing: tuple[str, ...] = ()


def promtool_binary() -> str | None:
    """Return the path of promtool; None if the machine has none."""
    return os.environ.get("PROMTOOL") or shutil.which("promtool")


def unexpected_alerts(folder: Path, steps: Iterable[Step], expected: Iterable[str]) -> str:
    """Evaluate the rules; return how the alerts that fire at the end differ from those that are expected."""
    series: dict[str, list[str]] = {}
    used = set(re.findall(r"ringcache_\w+", RULES.read_text()))
    count, now = START // INTERVAL, time.time()
    for step in steps:
        number = step.seconds // INTERVAL
        for name in series.keys() | {each for each in step.samples if _name_of(each) in used}:
            values = series.setdefault(name, [f"_x{count - 1}"])
            values += _values(name, step, number, now - count * INTERVAL)
        count += number
    query = 'group by (alertname) (ALERTS{alertstate="firing"})'
    wanted = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected]
    test = {
        "interval": f"{INTERVAL}s",
        "input_series": [{"series": name, "values": " ".join(values)} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{(count - 1) * INTERVAL}s", "exp_samples": wanted}
        ],
    }
    file = folder / "test.yml"
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": f"{INTERVAL}s", "tests": [test]})
    )
    binary = promtool_binary()
    assert binary is not None
    finished = subprocess.run(
        [binary, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    return "" if finished.returncode == 0 else finished.stdout + finished.stderr


def _values(name: str, step: Step, number: int, shift: float) -> list[str]:
    """Return the values of a series during a step; times are moved to Prometheus' clock in the test."""
    value = step.samples.get(name)
    if value is None:
        return [f"_x{number - 1}"]
    if _name_of(name).endswith("_timestamp_seconds"):
        value -= shift
    if _name_of(name) in step.growing:
        return [f"{value}+{INTERVAL}x{number - 1}"]
    return [f"{value}x{number - 1}"]


def _name_of(series: str) -> str:
    return series.partition("{")[0]

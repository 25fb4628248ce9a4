"""The rules for single settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options.faults import Faults
from cachebackend.options.rules import Boolean, Choice, Integer, Number, Optional, Rule, Word, check_fields

SHARE = Number(0, below=1)
SECONDS = Number(0, exclusive=True, unit=" seconds")


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        (SHARE, [0, 0.5]), (SECONDS, [0.001, 3]), (Integer(1, 3), [1, 3]), (Choice(("a", "b")), ["b"]),
        (Boolean(), [True, False]), (Optional(Integer(1, 3)), [None, 2]),
        (Word(4), ["a", "A_1.", "b-2"]),
    ],
)  # fmt: skip
def test_a_value_within_the_rule_has_no_fault(rule: Rule, good: list[Any]) -> None:
    """Both ends of a range included, unless the rule says otherwise."""
    assert [rule.fault(value) for value in good] == [None] * len(good)


@pytest.mark.parametrize(
    ("rule", "value", "says"),
    [
        (SHARE, 1, "must be >= 0 and < 1, got 1"),
        (SHARE, True, "must be a number, got True"),
        (SECONDS, 0, "must be > 0 seconds, got 0"),
        (SECONDS, "3", "must be a number seconds, got '3'"),
        (SECONDS, float("nan"), "must be > 0 seconds, got nan"),
        (Word(4), "a:b", "must be 1 to 4 letters, digits, '_', '-' or '.', got 'a:b'"),
        (Word(4), "", "must be 1 to 4 letters, digits, '_', '-' or '.', got ''"),
        (Word(4), "abcde", "must be 1 to 4 letters, digits, '_', '-' or '.', got 'abcde'"),
        (Word(4), b"a", "must be 1 to 4 letters, digits, '_', '-' or '.', got b'a'"),
        (Integer(1, 3), 4, "must be a whole number from 1 to 3, got 4"),
        (Integer(1, 3), 2.0, "must be a whole number from 1 to 3, got 2.0"),
        (Integer(0, 3), False, "must be a whole number from 0 to 3, got False"),
        (Choice(("a", "b")), "c", "must be one of a, b, got 'c'"),
        (Boolean(), 1, "must be True or False, got 1"),
        (Optional(Integer(1, 3)), 0, "must be a whole number from 1 to 3, got 0"),
    ],
)
def test_a_fault_says_what_is_allowed_and_what_was_given(rule: Rule, value: Any, says: str) -> None:
    """A bool is never a number."""
    assert rule.fault(value) == says


@dataclass
class Options:
    """Options with one setting."""

    size: int = field(default=1, metadata={"rule": Integer(1, 9)})
    nodes: tuple[str, ...] = ()


def test_fields_are_checked_by_their_rules_and_unknown_names_are_faults() -> None:
    """With a similar name, or all names; a field without a rule is known only if the caller says so."""
    faults = Faults("X")
    check_fields(Options, {"size": 0, "sizes": 1, "zzz": 1, "nodes": ()}, faults, ["nodes"])
    with pytest.raises(ConfigurationError) as raised:
        faults.raise_any()
    assert list(raised.value.faults) == [
        "X['size']: must be a whole number from 1 to 9, got 0",
        "X['sizes']: unknown option; did you mean 'size'?",
        "X['zzz']: unknown option; known are nodes, size",
        "X['nodes']: unknown option; did you mean 'nodes'?",
    ]

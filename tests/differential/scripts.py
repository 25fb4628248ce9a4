"""Scripts: made at random from a seed, made shorter after a failure, and printed to be run again.

Hypothesis could do all three, but it shrinks for minutes where a run takes half a second. Here a step has
a meaning on any data, so removing steps, unwrapping blocks and lowering numbers is enough.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.differential.kinds import KINDS, fits
from tests.differential.machine import BLOCKS, ENDINGS, Block, Item, Script
from tests.differential.off import is_off
from tests.differential.targets import Step
from tests.zoo.models import FAMILIES

__all__ = ["random_script", "shrink", "steps_of"]

_LONGEST_BLOCK = 4
_LONGEST_SCRIPT = 10
_BLOCK_SHARE = 0.35
_DEEPEST = 2


def random_script(family: str, generator: random.Random) -> Script:
    """Return a script for a family of models."""
    pairs = [
        (kind, model.__name__)
        for kind in KINDS
        if not is_off(kind)
        for model in FAMILIES[family]
        if not is_off(model.__name__) and fits(kind, model)
    ]
    kinds = [kind for kind in BLOCKS if not is_off(kind)]

    def item(depth: int) -> Item:
        if depth < _DEEPEST and generator.random() < _BLOCK_SHARE:
            steps = tuple(item(depth + 1) for _ in range(generator.randint(1, _LONGEST_BLOCK)))
            read = (generator.randrange(8), generator.randrange(40))
            return Block(generator.choice(kinds), generator.choice(ENDINGS), steps, read)
        return Step(*generator.choice(pairs), *(generator.randrange(6) for _ in range(3)))

    return tuple(item(0) for _ in range(generator.randint(3, _LONGEST_SCRIPT)))


def steps_of(script: Script) -> int:
    """Return the number of steps in a script, those in blocks included."""
    return sum(steps_of(item.steps) if isinstance(item, Block) else 1 for item in script)


def shrink(script: Script, fails: Callable[[Script], object], runs: int = 30) -> Script:
    """Return a shorter script that still fails.

    Args:
        script: A script that fails.
        fails: Runs a script, and returns whether it fails.
        runs: The most scripts that are run.
    """
    is_shorter = True
    while is_shorter:
        is_shorter = False
        for smaller in _smaller(tuple(script)):
            if runs <= 0:
                return script
            runs -= 1
            if fails(smaller):
                script, is_shorter = smaller, True
                break
    return script


def _smaller(script: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
    """Return scripts that are a little smaller, those that remove most first."""
    half = len(script) // 2
    if half > 1:
        yield script[half:]
        yield script[:half]
    for index in range(len(script)):
        yield script[:index] + script[index + 1 :]
    for index, item in enumerate(script):
        for smaller in _smaller_item(item):
            yield (*script[:index], *smaller, *script[index + 1 :])


def _smaller_item(item: Item) -> Iterator[tuple[Item, ...]]:
    if isinstance(item, Block):
        yield item.steps
        for steps in _smaller(item.steps):
            if steps:
                yield (replace(item, steps=steps),)
        if item.kind not in {"atomic", "other thread", "slow reader", "on_commit", "with comments"}:
            yield (replace(item, kind="atomic"),)
    else:
        for name in ("row", "other", "value"):
            if getattr(item, name):
                yield (replace(item, **{name: 0}),)

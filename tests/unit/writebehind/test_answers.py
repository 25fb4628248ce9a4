"""Lists that may be partial carry the errors of the servers that did not answer."""

from __future__ import annotations

import pytest

from cachebackend.writebehind.answers import Answers


def test_a_complete_list_is_returned_as_it_is() -> None:
    """It is a list like any other."""
    assert Answers([1, 2]).complete() == [1, 2]
    assert Answers() == []


def test_a_partial_list_is_not_taken_for_the_whole() -> None:
    """Its part can be used beside its errors; asked for the whole, it raises the first error."""
    answers = Answers([1], {"node 'b'": ValueError("away")})
    assert list(answers) == [1]
    with pytest.raises(ValueError, match="away"):
        answers.complete()

"""``@cached``, and the tags that writes to models invalidate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction

from cachebackend import RingCache, cached, invalidate
from cacheproject.demo.models import Article

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@cached(60)
def double(number: int, *, label: str = "x") -> str:
    """Doubles."""
    calls.append(number)
    return f"{label}{2 * number}"


@cached(60, tags=["numbers"])
async def slowly(number: int) -> int:
    calls.append(number)
    await asyncio.sleep(0)
    return number


@cached(60, tags=[Article])
def titles() -> list[str]:
    calls.append("titles")
    return list(Article.objects.order_by("slug").values_list("title", flat=True))


@cached(60, tags=lambda article: [article])
def shouted(article: Article) -> str:
    calls.append(article.pk)
    return Article.objects.get(pk=article.pk).title.upper()


def test_a_call_is_made_once_for_the_same_arguments() -> None:
    """Positional or by keyword; default values are part of the key."""
    assert [double(2), double(number=2), double(2, label="x"), double(2, label="y")] == [
        "x4",
        "x4",
        "x4",
        "y4",
    ]
    assert calls == [2, 2]
    assert double.__name__ == "double"
    assert double.__doc__ == "Doubles."


def test_a_result_is_invalidated_and_refreshed_on_demand() -> None:
    """``invalidate`` deletes it; ``refresh`` replaces it."""
    double(2)
    assert double.invalidate(2) is True
    double(2)
    assert double.refresh(2) == "x4"
    double(2)
    assert calls == [2, 2, 2]


def test_a_coroutine_function_is_awaited() -> None:
    """So are ``invalidate`` and ``refresh``, and its tags work the same."""

    async def main() -> None:
        assert [await slowly(1), await slowly(1)] == [1, 1]
        await slowly.invalidate(1)
        assert await slowly.refresh(1) == 1
        assert await slowly(1) == 1

    asyncio.run(main())
    assert calls == [1, 1]
    invalidate("numbers")
    asyncio.run(slowly(1))
    assert calls == [1, 1, 1]


def test_a_model_is_a_tag_that_its_writes_invalidate() -> None:
    """By save, update, bulk_create and delete; after the commit."""
    assert titles() == []
    article = Article.objects.create(slug="a", title="A")
    assert titles() == ["A"]
    with transaction.atomic():
        Article.objects.filter(pk=article.pk).update(title="B")
        assert titles() == ["B"]  # the transaction reads its own change, and does not cache it
        assert ThreadPoolExecutor(1).submit(titles).result() == ["A"]
    assert titles() == ["B"]
    Article.objects.bulk_create([Article(slug="b", title="C")])
    assert titles() == ["B", "C"]
    article.delete()
    assert titles() == ["C"]


def test_a_row_is_its_own_tag() -> None:
    """A change of another row does not invalidate it."""
    one, other = (Article.objects.create(slug=slug, title=slug) for slug in "ab")
    assert [shouted(one), shouted(other)] == ["A", "B"]
    Article.objects.filter(pk=one.pk).update(title="new")
    assert [shouted(one), shouted(other)] == ["NEW", "B"]
    assert calls == [one.pk, other.pk, one.pk]
    invalidate(other)
    shouted(other)
    assert len(calls) == 4


def test_invalidate_waits_for_the_commit(ring_cache: RingCache) -> None:
    """And a rollback discards it."""
    ring_cache.get_or_set("k", "v", tags=["t"])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        invalidate("t")
        raise ZeroDivisionError
    assert ring_cache.get("k") == "v"
    with transaction.atomic():
        invalidate("t")
        assert ring_cache.get("k") == "v"
    assert ring_cache.get("k") is None


def test_an_exception_is_not_cached() -> None:
    """The next call runs the function again. An argument that cannot be named is refused."""

    @cached()
    def fail(_: object) -> None:
        calls.append("fail")
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail(1)
    assert calls == ["fail", "fail"]
    with pytest.raises(TypeError, match="has an argument that cannot be part of a key; give @cached"):
        fail(object())


def test_a_method_is_cached_by_its_instance() -> None:
    """With ``key``, because its instance cannot be part of a key."""

    class Shop:
        @cached(60, key=lambda self, n: f"{self.name}:{n}")
        def total(self, n: int) -> int:
            calls.append(n)
            return n

        name = "one"

    shop = Shop()
    assert [shop.total(1), shop.total(1)] == [1, 1]
    shop.total.invalidate(1)
    shop.total(1)
    assert calls == [1, 1]


@cached(60)
def title_of(pk: int) -> str:
    return Article.objects.get(pk=pk).title


def test_a_result_that_is_invalidated_in_a_transaction_is_not_the_old_one() -> None:
    """A reader that misses before the commit fills the old result; it is deleted again after the commit."""
    article = Article.objects.create(slug="a", title="old")
    with transaction.atomic():
        Article.objects.filter(pk=article.pk).update(title="new")
        assert title_of(article.pk) == "new"
        title_of.invalidate(article.pk)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(title_of, article.pk).result() == "old"
            pool.submit(lambda: connection.close()).result()  # noqa: PLW0108  # of its own thread
    assert title_of(article.pk) == "new"


def test_tags_may_be_read_once() -> None:
    """As those of a generator; the result of each call has them."""

    @cached(60, tags=(model for model in [Article]))
    def titles_now() -> list[str]:
        return sorted(Article.objects.values_list("title", flat=True))

    for number in range(3):
        Article.objects.create(slug=str(number), title=str(number))
        assert len(titles_now()) == number + 1


def test_closures_of_one_place_are_distinguished() -> None:
    """The function that names the arguments does not see what a closure holds."""

    def multiplier(factor: int) -> Callable[[int], int]:
        return cached(60, key=str)(lambda number: factor * number)

    assert [multiplier(2)(10), multiplier(3)(10)] == [20, 30]


def test_wrapped_functions_are_distinguished_beside_their_key() -> None:
    """A decorator may give all of its functions one wrapper, which holds an object without a name."""
    functions = [
        cached(60, key=str)(transaction.atomic(each))
        for each in (lambda number: number, lambda number: -number)
    ]
    assert [each(1) for each in functions] == [1, -1]


class Report:
    """A callable object."""

    def __call__(self, number: int) -> int:
        return number


def test_an_object_that_nothing_distinguishes_is_refused() -> None:
    """Also with a key, which only names the arguments."""
    with pytest.raises(TypeError, match=r"nothing distinguishes .*Report from others of its class"):
        cached(60, key=str)(Report())(1)


@pytest.mark.parametrize("tags", ["front", Article, Article(pk=1)])
def test_a_single_tag_is_refused(ring_cache: RingCache, tags: Any) -> None:
    """The letters of a string are not meant as tags."""
    with pytest.raises(TypeError, match="tags must be a list of tags"):
        cached(60, tags=tags)
    with pytest.raises(TypeError, match="tags must be a list of tags"):
        ring_cache.get_or_set("k", "v", tags=tags)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (classmethod(len), "put @classmethod above @cached"),
        (staticmethod(len), "put @staticmethod above @cached"),
        (None, "is a generator, which can be read once; return a list"),
    ],
)
def test_what_has_no_result_to_cache_is_refused(function: Any, says: str) -> None:
    """A generator can be read once."""

    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match=says):
        cached(60)(function or numbers)


@cached(60, tags=[3])  # type: ignore[list-item]  # the point
def badly_tagged() -> int:
    calls.append("badly_tagged")
    return 1


@pytest.mark.parametrize("tag", [3, None, b"t", int, ["t"]])
def test_an_invalid_tag_is_refused(ring_cache: RingCache, tag: Any) -> None:
    """Before anything is loaded or invalidated; the message says what a tag may be."""
    says = "a tag is a string, a model class, or a model instance; not "
    with pytest.raises(TypeError, match=says):
        ring_cache.get_or_set("k", lambda: calls.append("loader"), 60, tags=[tag])
    with pytest.raises(TypeError, match=says):
        invalidate("t", tag)
    with pytest.raises(TypeError, match=says):
        ring_cache.invalidate_tags(tag)
    with pytest.raises(TypeError, match=f"{says}3"):
        badly_tagged()
    assert calls == []

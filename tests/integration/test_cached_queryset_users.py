"""What takes querysets works with cached ones as it is: views, pages, forms, the admin, REST framework."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.core.paginator import Paginator
from django.db import connection, models, transaction
from django.db.models import Avg, Exists, F, OuterRef, Subquery
from django.forms import ModelChoiceField, ModelMultipleChoiceField, modelform_factory, modelformset_factory
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_list_or_404, get_object_or_404
from django.template import Context, Template
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import CaptureQueriesContext, override_settings
from django.urls import path
from django.views.generic import DetailView, ListView, UpdateView

from cachebackend import RingCache
from cachebackend.queries import InvalidatingQuerySet
from cachebackend.queries.queryset import CachedQuerySet
from tests.shop.models import Note, Product, Tag
from tests.upserts import unique_fields
from tests.zoo.models import Author, Poem

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


@pytest.fixture(autouse=True)
def poems() -> list[Poem]:
    authors = [Author.objects.create(name=name, rank=n) for n, name in enumerate("ab")]
    return [
        Poem.objects.create(name=f"{author.name}{n}", author=author, rank=n)
        for author in authors
        for n in range(3)
    ]


def cached(model: Any = Poem) -> Any:
    return model.cached.all()


def statements(evaluate: Callable[[], Any]) -> int:
    """Return how many statements the database gets."""
    with CaptureQueriesContext(connection) as captured:
        evaluate()
    return len(captured)


def names_of(rows: Any) -> list[str]:
    return [row.name for row in rows]


def page_of(view: type[Any], queryset: Any, **arguments: Any) -> Any:
    """Return what the template of a generic view gets."""
    found = view.as_view(queryset=queryset, template_name="none.html")
    return found(RequestFactory().get("/", arguments.pop("query", {})), **arguments).context_data


def rendered(queryset: Any) -> str:
    template = Template("{{ poems|length }}:{% for p in poems %}{{ p.author.name }}{{ p.name }},{% endfor %}")
    return template.render(Context({"poems": queryset.select_related("author").order_by("name")}))


class Numbered(ListView):
    paginate_by = 2
    allow_empty = False
    ordering = ("name",)


async def _awaited(queryset: Any) -> Any:
    ordered = queryset.order_by("name")
    return [
        [poem.name async for poem in ordered],
        await ordered.acount(),
        (await ordered.aget(name="a1")).rank,
        (await ordered.afirst()).name,
        (await ordered.alast()).name,
        await ordered.filter(rank=99).afirst(),
        await ordered.aexists(),
        await ordered.aaggregate(most=Avg("rank")),
        sorted(await ordered.ain_bulk(["a0"], field_name="name")),
        (await ordered.alatest("name")).name,
        [name async for name in ordered.values_list("name", flat=True)[1:3]],
        await ordered.acontains(await ordered.aget(name="b0")),
    ]


#: What is done with a queryset of poems; the result can be compared.
USES: dict[str, Callable[[Any], Any]] = {
    "get_object_or_404": lambda q: get_object_or_404(q.filter(rank=1), name="a1").name,
    "get_list_or_404": lambda q: sorted(names_of(get_list_or_404(q, rank=1))),
    "ListView": lambda q: names_of(page_of(ListView, q.order_by("name"))["poem_list"]),
    "numbered ListView": lambda q: (
        (page := page_of(Numbered, q, query={"page": 2})),
        names_of(page["object_list"]),
        page["paginator"].num_pages,
    )[1:],
    "DetailView": lambda q: page_of(DetailView, q, pk=q.get(name="a1").pk)["poem"].name,
    "Paginator": lambda q: [
        [*names_of(page), page.has_next()] for page in Paginator(q.order_by("name"), 4, orphans=1)
    ],
    "ModelChoiceField": lambda q: (
        str(ModelChoiceField(q.order_by("name")).widget.render("poem", None)).count("<option"),
        ModelChoiceField(q).clean(str(q.get(name="b1").pk)).name,
        [label for _, label in ModelChoiceField(q.order_by("name"), to_field_name="name").choices].__len__(),
    ),
    "ModelMultipleChoiceField": lambda q: sorted(
        names_of(ModelMultipleChoiceField(q, to_field_name="name").clean(["a1", "b1"]))
    ),
    "formset": lambda q: modelformset_factory(Poem, fields=["name"], extra=0)(
        queryset=q.order_by("name")
    ).total_form_count(),
    "template": rendered,
    "async": async_to_sync(_awaited),
    "pickle": lambda q: names_of(pickle.loads(pickle.dumps(q.filter(rank=1).order_by("name")))),
    "deepcopy": lambda q: names_of(copy.deepcopy(q.filter(rank=1).order_by("name"))),
    "or": lambda q: sorted(names_of(q.filter(rank=1) | q.filter(author__name="a"))),
    "and": lambda q: names_of(q.filter(rank=1) & q.filter(author__name="a")),
    "xor": lambda q: sorted(names_of(q.filter(rank=1) ^ q.filter(author__name="a"))),
    "or with a plain one": lambda q: sorted(names_of(q.filter(rank=1) | Poem.objects.filter(rank=2))),
    "in": lambda q: sorted(a.name for a in cached(Author).filter(poem__in=q.filter(rank=2))),
    "in values": lambda q: names_of(
        Poem.objects.filter(pk__in=q.filter(rank=2).values("pk")).order_by("name")
    ),
    "Exists": lambda q: list(
        cached(Author)
        .filter(Exists(q.filter(author=OuterRef("pk"), rank=2)))
        .order_by("name")
        .values_list("name", flat=True)
    ),
    "Subquery": lambda q: list(
        cached(Author)
        .annotate(first=Subquery(q.filter(author=OuterRef("pk")).order_by("name").values("name")[:1]))
        .order_by("name")
        .values_list("first", flat=True)
    ),
    "truth": lambda q: (bool(q.filter(rank=1)), bool(q.filter(rank=9)), len(q), q.filter(rank=1)[0].rank),
    "in python": lambda q: Poem.objects.get(name="a1") in q.filter(rank=1),
    "repr": lambda q: repr(q.filter(rank=1).order_by("name")).replace("CachedQuerySet", "QuerySet"),
    "related": lambda q: sorted(names_of(q.filter(author__in=cached(Author).filter(name="a")))),
}


@pytest.mark.parametrize("use", USES)
def test_a_cached_queryset_is_used_as_a_plain_one(use: str) -> None:
    """The results are equal: of the plain one, of the first use and of the next one."""
    plain = USES[use](Poem.objects.all())
    assert USES[use](cached()) == plain
    assert USES[use](cached()) == plain


#: These ask a plain queryset, too, or read by ``iterator()``.
NOT_CACHED = {"in python", "in values", "ModelChoiceField"}


@pytest.mark.parametrize("use", [use for use in USES if use not in NOT_CACHED])
def test_a_use_asks_the_database_once(use: str) -> None:
    """The next use reads the ring."""
    USES[use](cached())
    assert statements(lambda: USES[use](cached())) == 0


@pytest.mark.parametrize("use", USES)
def test_a_use_is_right_after_writes(use: str) -> None:
    """As the plain one is."""
    for write in (
        lambda: None,
        lambda: Poem.objects.filter(name="a2").update(rank=1),
        lambda: Poem.objects.create(name="b9", rank=2, author=Author.objects.get(name="b")),
        lambda: Poem.objects.filter(name="a0").update(author=Author.objects.get(name="b")),
        lambda: Poem.objects.filter(name="b2").delete(),
    ):
        write()
        assert USES[use](cached()) == USES[use](Poem.objects.all())


def test_the_manager_is_used_as_a_queryset() -> None:
    """By the functions that take a manager of Django."""
    assert get_object_or_404(Poem.cached, name="a1").rank == 1
    assert len(get_list_or_404(Poem.cached, rank=1)) == 2
    assert ModelChoiceField(Poem.cached).clean(Poem.objects.get(name="a1").pk).name == "a1"
    with pytest.raises(Http404):
        get_object_or_404(Poem.cached, name="z")
    with pytest.raises(Http404):
        get_list_or_404(Poem.cached, rank=99)
    with pytest.raises(Http404):
        page_of(Numbered, cached().filter(rank=99))


def test_queries_in_an_event_loop_are_refused() -> None:
    """Whether the result is cached or not, as those of a plain queryset."""

    async def use() -> None:
        for read in (
            lambda: cached().count(),
            lambda: list(cached().filter(rank=1)),
            lambda: cached().filter(rank=1).exists(),
            lambda: cached().aggregate(most=Avg("rank")),
            lambda: cached().filter(rank=1).first(),
            lambda: bool(cached().filter(rank=1)),
        ):
            with pytest.raises(SynchronousOnlyOperation):
                read()
        assert await cached().acount() == 6

    async_to_sync(use)()
    cached().count(), list(cached().filter(rank=1)), cached().filter(rank=1).exists()
    cached().aggregate(most=Avg("rank")), cached().filter(rank=1).first()
    async_to_sync(use)()


def test_tasks_read_at_the_same_time() -> None:
    """Each its own queryset."""

    async def use() -> list[Any]:
        return list(await asyncio.gather(*(cached().filter(rank=n % 3).acount() for n in range(9))))

    assert async_to_sync(use)() == [2] * 9
    assert async_to_sync(use)() == [2] * 9


# Writes


def ranks(model: Any = Poem) -> dict[str, int]:
    return dict(model.objects.values_list("name", "rank"))


#: Writes through a queryset of poems.
WRITES: dict[str, Callable[[Any], Any]] = {
    "update": lambda q: q.filter(rank=1).update(rank=F("rank") + 5),
    "update by a relation": lambda q: q.filter(author__name="a").update(rank=7),
    "delete": lambda q: q.filter(rank=1).delete(),
    "create": lambda q: q.create(name="n", rank=1).rank,
    "get_or_create": lambda q: [q.get_or_create(name=n, defaults={"rank": 9})[1] for n in ("a1", "n", "n")],
    "update_or_create": lambda q: [
        q.update_or_create(name=name, defaults={"rank": 9})[1] for name in ("a1", "n", "n")
    ],
    "bulk_create": lambda q: len(q.bulk_create([Poem(name="n", rank=1), Poem(name="m", rank=2)])),
    "upsert": lambda q: len(
        q.bulk_create(
            [Poem(name="a1", rank=8)],
            update_conflicts=True,
            unique_fields=unique_fields("name"),
            update_fields=["rank"],
        )
    ),
    "bulk_update": lambda q: (
        poems := list(q.filter(rank=1)),
        [setattr(poem, "rank", 6) for poem in poems],
        q.bulk_update(poems, ["rank"]),
    )[2],
    "aupdate": lambda q: async_to_sync(q.filter(rank=1).aupdate)(rank=4),
    "adelete": lambda q: async_to_sync(q.filter(rank=1).adelete)(),
    "aget_or_create": lambda q: async_to_sync(q.aget_or_create)(name="n", defaults={"rank": 1})[1],
    "save of a row": lambda q: [(setattr(p, "rank", 5), p.save()) for p in q.filter(rank=1)].__len__(),
    "in_bulk and save": lambda q: [
        (setattr(p, "rank", 5), p.save(update_fields=["rank"])) for p in q.in_bulk().values()
    ].__len__(),
}


@pytest.mark.parametrize("is_atomic", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_through_a_cached_queryset_is_that_of_a_plain_one(write: str, is_atomic: bool) -> None:
    """It changes the same rows, and is seen by reads in the transaction and after it."""
    with transaction.atomic():
        expected = WRITES[write](Poem.objects.all()), ranks()
        transaction.set_rollback(True)
    for _ in range(2):
        assert dict(cached().values_list("name", "rank")) == ranks()
        [list(cached().filter(rank=n)) for n in (1, 4, 5, 6, 7, 9)]
    if is_atomic:
        with transaction.atomic():
            found = WRITES[write](cached()), dict(cached().values_list("name", "rank"))
    else:
        found = WRITES[write](cached()), dict(cached().values_list("name", "rank"))
    assert found == expected
    assert ranks() == dict(cached().values_list("name", "rank")) == expected[1]
    for n in (1, 4, 5, 6, 7, 9):
        assert sorted(names_of(cached().filter(rank=n))) == sorted(names_of(Poem.objects.filter(rank=n)))


@pytest.mark.other_than_sqlite
def test_rows_are_locked_in_the_database() -> None:
    """``select_for_update`` asks it each time."""
    for _ in range(2):
        with transaction.atomic():
            with CaptureQueriesContext(connection) as captured:
                assert names_of(cached().select_for_update().filter(rank=1).order_by("name")) == ["a1", "b1"]
            assert ["FOR UPDATE" in each["sql"] for each in captured.captured_queries] == [True]


def test_a_row_that_is_absent_in_the_cache_is_created_once() -> None:
    """``get_or_create`` after a miss that is cached."""
    assert cached().filter(name="n").first() is None
    Poem.objects.create(name="n", rank=3)
    poem, is_new = cached().get_or_create(name="n", defaults={"rank": 4})
    assert (poem.rank, is_new) == (3, False)


@pytest.mark.parametrize("create", ["get_or_create", "update_or_create"])
def test_a_row_whose_writer_has_not_invalidated_its_absence_yet_is_found(create: str) -> None:
    """The database refuses to create another one.

    1. creator   finds no row: that is cached
    2. writer    inserts the row, and commits. It has not deleted the cached absence yet
    3. creator   inserts a row: refused, so it reads again
    """
    with pytest.raises(Poem.DoesNotExist):
        cached().get(name="n")
    with connection.cursor() as cursor:  # nothing sees it
        cursor.execute("INSERT INTO zoo_poem (name, rank) VALUES ('n', 3)")
    poem, is_new = getattr(cached(), create)(name="n", defaults={})
    assert (poem.rank, is_new) == (3, False)
    poem, is_new = getattr(Poem.cached, create)(name="n", defaults={})
    assert (poem.rank, is_new) == (3, False)


# The admin, REST framework and async views


class PoemAdmin(admin.ModelAdmin):
    list_display = ("name", "author", "rank")
    list_filter = ("rank", "author")
    list_select_related = ("author",)
    search_fields = ("name",)
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Poem]:
        return cached()  # type: ignore[no-any-return]


site = admin.AdminSite()
site.register(Poem, PoemAdmin)


async def poem_names(request: HttpRequest) -> HttpResponse:
    """An async view."""
    return JsonResponse(
        {"names": [p.name async for p in cached().order_by("name")], "n": await cached().acount()}
    )


class Renamed(UpdateView):
    fields = ("name",)
    success_url = "/"

    def get_queryset(self) -> models.QuerySet[Poem]:
        return cached()  # type: ignore[no-any-return]


urlpatterns = [
    path("admin/", site.urls),
    path("names/", poem_names),
    path("poems/<int:pk>/", Renamed.as_view()),
]


@pytest.fixture
def client() -> Iterator[Client]:
    """Logged in, with every permission, at the views of this module."""
    with override_settings(ROOT_URLCONF=__name__):
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        yield client


def test_the_admin_lists_and_changes_rows(client: Client) -> None:
    """Its pages show the rows as they are after each change."""
    url = "/admin/zoo/poem/"
    for query, count in (({}, 6), ({"q": "a"}, 3), ({"rank": 1}, 2), ({"author__id__exact": 0}, 0)):
        for _ in range(2):
            assert client.get(url, query).context["cl"].result_count == count
    poem = Poem.objects.get(name="a1")
    form = {"name": "changed", "rank": 1, "author": poem.author_id}
    assert client.post(f"{url}{poem.pk}/change/", form).status_code == 302
    page = client.get(url).content.decode()
    assert "changed" in page
    assert ">a1<" not in page
    assert client.get(f"{url}{poem.pk}/change/").context["original"].name == "changed"
    assert client.post(f"{url}add/", form | {"name": "new"}).status_code == 302
    assert client.get(url).context["cl"].result_count == 7
    action = {"action": "delete_selected", "_selected_action": [poem.pk], "post": "yes"}
    assert client.post(url, action).status_code == 302
    assert client.get(url).context["cl"].result_count == 6
    assert client.post(f"{url}{Poem.objects.get(name='new').pk}/delete/", {"post": "yes"}).status_code == 302
    assert client.get(url).context["cl"].result_count == 5


def test_an_update_view_saves_a_row(client: Client) -> None:
    """And shows it."""
    poem = Poem.objects.get(name="a1")
    with override_settings(TEMPLATES=[]):
        assert client.post(f"/poems/{poem.pk}/", {"name": "new"}).status_code == 302
    assert cached().get(pk=poem.pk).name == "new"
    assert modelform_factory(Poem, fields=["name"])({"name": "new"}, instance=Poem()).errors  # it is unique


@override_settings(ROOT_URLCONF=__name__)
def test_an_async_view_reads_the_ring() -> None:
    """And sees a write at once."""

    async def names() -> Any:
        response = await AsyncClient().get("/names/")
        return json.loads(response.content)

    assert async_to_sync(names)() == {"names": ["a0", "a1", "a2", "b0", "b1", "b2"], "n": 6}
    Poem.objects.filter(author__name="b").delete()
    assert async_to_sync(names)() == {"names": ["a0", "a1", "a2"], "n": 3}


def test_rest_framework_serves_a_cached_queryset() -> None:
    """Lists in pages, single rows, relations, and writes."""
    serializers = pytest.importorskip("rest_framework.serializers")
    from rest_framework.pagination import PageNumberPagination
    from rest_framework.test import APIRequestFactory
    from rest_framework.viewsets import ModelViewSet

    class PoemSerializer(serializers.ModelSerializer):  # type: ignore[misc, name-defined]  # it may be missing
        author = serializers.SlugRelatedField(slug_field="name", queryset=Author.cached.all())

        class Meta:
            model = Poem
            fields = ("pk", "name", "rank", "author")

    class Pages(PageNumberPagination):  # type: ignore[misc]  # the same
        page_size = 4

    class Poems(ModelViewSet):  # type: ignore[misc]  # the same
        queryset = Poem.cached.select_related("author").order_by("name")
        serializer_class = PoemSerializer
        pagination_class = Pages
        authentication_classes = ()

    requests = APIRequestFactory()
    listed, one = (
        Poems.as_view({"get": "list", "post": "create"}),
        Poems.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
    )

    def page(number: int) -> tuple[int, list[str]]:
        data = listed(requests.get("/", {"page": number})).data
        return data["count"], [f"{row['author']}:{row['name']}" for row in data["results"]]

    for _ in range(2):
        assert page(1) == (6, ["a:a0", "a:a1", "a:a2", "b:b0"])
        assert page(2) == (6, ["b:b1", "b:b2"])
    assert statements(lambda: page(1)) == 0
    response = listed(requests.post("/", {"name": "a9", "rank": 1, "author": "a"}, format="json"))
    assert (response.status_code, page(1)[0]) == (201, 7)
    pk = response.data["pk"]
    assert listed(requests.post("/", {"name": "a9", "author": "z"}, format="json")).status_code == 400
    assert one(requests.patch("/", {"name": "c"}, format="json"), pk=pk).data["name"] == "c"
    assert one(requests.get("/"), pk=pk).data["name"] == "c"
    assert page(2)[1] == ["b:b1", "b:b2", "a:c"]
    assert one(requests.delete("/"), pk=pk).status_code == 204
    assert one(requests.get("/"), pk=pk).status_code == 404
    assert page(2) == (6, ["b:b1", "b:b2"])


def test_combining_keeps_the_class_of_the_first() -> None:
    """A cached queryset stays cached; a plain one stays plain."""
    assert type(cached().filter(rank=1) | Poem.objects.filter(rank=2)) is CachedQuerySet
    assert not isinstance(Poem.objects.filter(rank=1) | cached().filter(rank=2), CachedQuerySet)


# Querysets of other managers


class ProductSet(InvalidatingQuerySet[Product]):
    """A queryset with a method of its own."""

    def tagged(self, tag: str) -> ProductSet:
        return self.filter(tags__name=tag)


def test_a_queryset_of_another_manager_is_cached_when_it_says_so() -> None:
    """With its conditions; a change of a row's other columns loads the row alone."""
    tag, products = Tag.objects.create(name="t"), [Product.objects.create(name=name) for name in "ab"]
    for product in products:
        product.tags.add(tag)

    def read() -> list[str]:
        return names_of(ProductSet(Product).tagged("t").order_by("pk").cached(timeout=60))

    for _ in range(2):
        assert read() == ["a", "b"]
        assert Product.objects.filter(name="a").cached().count() == 1
    assert statements(read) == statements(Product.objects.filter(name="a").cached().count) == 0
    Product.objects.filter(name="a").update(name="c")
    assert statements(read) == 1
    assert read() == ["c", "b"]
    assert Product.objects.filter(name="a").cached().count() == 0
    products[0].tags.clear()
    assert read() == ["b"]
    assert "from their own entries" in ProductSet(Product).tagged("t").cached().explain_cache()


def test_rows_of_a_filtering_manager_are_not_read_for_another_manager() -> None:
    """A row that is marked as removed exists for a queryset that has it."""
    note = Note.everything.create(text="a", removed=True)
    queryset = InvalidatingQuerySet(Note).filter(text="a").cached()
    assert queryset.cache_options.rows == "cached_everything"
    assert [list(queryset.all()), list(queryset.all())] == [[note], [note]]

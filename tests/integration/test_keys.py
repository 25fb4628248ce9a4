"""The keys of rows, lookups and tags, against what the database holds equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.apps.registry import Apps
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, IntegerRangeField
from django.core.exceptions import ImproperlyConfigured, MultipleObjectsReturned, ValidationError
from django.db import connection, connections, models
from django.db.models import Value
from django.db.models.functions import Lower
from django.test.utils import CaptureQueriesContext

from cachebackend import CachedManager, RingCache, cached, checks, invalidate, protocol
from cachebackend.backend import canonical, collations
from cachebackend.backend.scope import scope_of
from cachebackend.checks.caching import _can_hold
from cachebackend.codec import EncodeError
from cachebackend.effects import Load
from cachebackend.managers import audit
from cachebackend.managers.keys import RowKeys
from cacheproject.demo.models import Article
from tests.shop.models import Author, Coin, Line, Tag
from tests.zoo.models import Arrival, Handle, Token

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
Call = Callable[..., Any]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def pk_or_none(model: Any, **lookup: Any) -> Any:
    """Return the primary key of the row that the cache returns; None if there is none."""
    try:
        return model.cached.get(**lookup).pk
    except model.DoesNotExist:
        return None


# Values


@pytest.mark.parametrize(
    ("name", "asked", "stored"),
    [
        ("worth", Decimal("1.5"), Decimal("1.50")),
        ("worth", "1.500", Decimal("1.5")),
        ("worth", 10, Decimal("1E+1")),
        ("minted", NOON.astimezone(ZoneInfo("Europe/Berlin")), NOON),
        ("minted", "2024-05-01T12:00:00Z", NOON),
    ],
)
def test_a_row_ends_the_absence_of_each_value_that_is_equal(name: str, asked: Any, stored: Any) -> None:
    """The value is written in another form; when the row is cached too, a read runs no query."""
    assert pk_or_none(Coin, **{name: asked}) is None
    Coin.objects.create(code="c", **{name: stored})
    assert pk_or_none(Coin, pk="c") == "c"
    assert pk_or_none(Coin, **{name: asked}) == "c"
    with CaptureQueriesContext(connection) as captured:
        assert pk_or_none(Coin, **{name: asked}) == "c"
    assert len(captured) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("#" + 64 * "a", "a"),
        ("x" * 700, "x" * 699 + "y"),
        ("None", "none"),
        ("a", "a "),
        ("a,b", "a%2Cb"),
    ],
)
def test_each_text_is_its_own_row(one: str, other: str) -> None:
    """Long and unusual texts are hashed; no text is read as another one."""
    for code in (one, other):
        Coin.objects.create(code=code, name=f"named {code[-5:]}")
    for code in (one, other) * 2:
        assert Coin.cached.get(pk=code).name == f"named {code[-5:]}"
    assert list(Coin.cached.in_bulk([one, other])) == [one, other]


def test_the_hash_of_a_text_is_not_the_key_of_another_row() -> None:
    """A row whose primary key is the hash of another one's is not returned for it."""
    long = "x" * 700
    Coin.objects.create(code=long)
    hashed = Coin.cached.key_of(pk=long).rpartition(":")[2]
    Coin.cached.get(pk=long)
    assert pk_or_none(Coin, pk=hashed) is None


def test_a_value_of_another_row_is_never_returned(ring_cache: RingCache) -> None:
    """The row that is read is compared with the primary key, or the lookup, that was asked for."""
    one, other = Tag.objects.create(name="one"), Tag.objects.create(name="other")
    for tag in (one, other):
        assert Tag.cached.get(name=tag.name) == Tag.cached.get(pk=tag.pk)
    wrong = ring_cache.get(Tag.cached.key_of(pk=one.pk))
    for read in (
        lambda: Tag.cached.get(pk=other.pk),
        lambda: Tag.cached.get(name="other"),
        lambda: Tag.cached.in_bulk([other.pk])[other.pk],
    ):
        ring_cache.set(Tag.cached.key_of(pk=other.pk), wrong)
        assert read().name == "other"


@pytest.mark.parametrize("asked", [datetime(2024, 5, 1, 12), "2024-05-01 12:00:00", "2024-05-01T13:00+01:00"])
@pytest.mark.filterwarnings("ignore:.*received a naive datetime")
def test_rows_of_in_bulk_are_found_in_every_spelling(asked: Any) -> None:
    """The row is returned under its own primary key, and its absence is not cached."""
    Arrival.objects.create(at=NOON, name="noon")
    for _ in range(2):
        assert [(pk, row.name) for pk, row in Arrival.cached.in_bulk([asked, NOON]).items()] == [
            (NOON, "noon")
        ]
    assert Arrival.cached.get(pk=NOON).name == "noon"
    assert Arrival.cached.get(pk=asked).name == "noon"


def test_rows_of_in_bulk_without_keys_are_read_from_the_database() -> None:
    """And returned once, after the rows with keys."""
    Handle.objects.create(code="bob", name="bob")
    assert list(Handle.cached.in_bulk(["BOB", "bob", "other"])) == ["bob"]
    assert Handle.cached.get(pk="BOB").name == "bob"
    assert pk_or_none(Handle, pk="other") is None
    Handle.objects.create(code="OTHER", name="other")
    assert pk_or_none(Handle, pk="other") == "OTHER".lower()


def test_an_expression_is_asked_of_the_database() -> None:
    """Its text is not the value that it has."""
    expression = Lower(Value("BOB"))
    Arrival.objects.create(at=NOON, name=str(expression))
    assert pk_or_none(Arrival, name=expression) is None
    assert pk_or_none(Arrival, name=Value("bob")) is None
    bob = Arrival.objects.create(at=NOON.replace(hour=13), name="bob")
    assert pk_or_none(Arrival, name=expression) == bob.pk
    assert pk_or_none(Arrival, name=Value("bob")) == bob.pk
    assert pk_or_none(Arrival, pk=Value(bob.pk)) == bob.pk


def test_a_row_whose_primary_key_has_no_text_is_no_tag(ring_cache: RingCache) -> None:
    """The message says what to use."""
    with pytest.raises(TypeError, match="in a Lowered, whose values Python cannot compare. Use the model"):
        ring_cache.get_or_set("page", lambda: 1, tags=[Handle(code="bob")])
    ring_cache.get_or_set("page", lambda: 1, tags=[Handle])
    Handle.objects.create(code="bob", name="bob")
    assert ring_cache.get("page") is None


def test_a_row_whose_primary_key_has_no_text_may_be_an_argument() -> None:
    """Rows with other primary keys have other results."""

    @cached(60)
    def code_of(handle: Handle) -> str:
        return handle.code

    assert [code_of(Handle(code=code)) for code in ("bob", "BOB", "bob")] == ["bob", "BOB", "bob"]
    with pytest.raises(EncodeError, match="save it first"):
        code_of(Handle(code=None))


def test_none_is_asked_of_the_database() -> None:
    """It is neither the text "None" nor one row."""
    Coin.objects.create(code="a", name="None")
    assert pk_or_none(Coin, name=None) is None
    Coin.objects.create(code="b")
    assert pk_or_none(Coin, name=None) == "b"
    Coin.objects.create(code="c")
    with pytest.raises(MultipleObjectsReturned):
        Coin.cached.get(name=None)
    assert pk_or_none(Coin, name="None") == "a"
    assert pk_or_none(Coin, pk=None) is None
    assert Coin.cached.in_bulk([None]) == {}


@pytest.mark.parametrize(
    ("model", "lookup", "error"),
    [
        (Tag, {"pk": "abc"}, ValueError),
        (Tag, {"pk": [1]}, TypeError),
        (Coin, {"worth": "much"}, ValidationError),
        (Coin, {"minted": "yesterday"}, ValidationError),
        (Coin, {"tag": Article(pk=1)}, ValueError),
        (Coin, {"tag": Tag()}, ValueError),
        (Line, {"pk": 1}, ValueError),
    ],
)
def test_a_value_that_the_column_cannot_hold_raises_what_django_raises(
    model: Any, lookup: dict[str, Any], error: type[Exception], call: Call
) -> None:
    """It is not an absent row."""
    with pytest.raises(error) as plain:
        model.objects.get(**lookup)
    with pytest.raises(error) as raised:
        call(model.cached, "get", **lookup)
    assert str(raised.value) == str(plain.value)


def test_a_decimal_that_the_column_would_round_is_not_cached() -> None:
    """Whether it finds a row is the database's decision."""
    found = Coin.objects.filter(worth="1.555").count()
    Coin.objects.create(code="c", worth=Decimal("1.56"))
    found = Coin.objects.filter(worth="1.555").count()
    assert (pk_or_none(Coin, worth="1.555") == "c") == bool(found)


def test_a_foreign_key_is_a_lookup_by_row_or_by_value() -> None:
    """Both are one key."""
    tag = Tag.objects.create(name="t")
    Coin.objects.create(code="c", tag=tag)
    assert pk_or_none(Coin, tag=tag) == pk_or_none(Coin, pk="c") == "c"
    with CaptureQueriesContext(connection) as captured:
        assert [pk_or_none(Coin, tag_id=value) for value in (tag.pk, str(tag.pk))] == ["c", "c"]
    assert len(captured) == 0


def rename_while_read(operation: protocol.Operation[Any], rename: Callable[[], None]) -> Any:
    """Run an operation, and rename before each query."""
    from cachebackend.drivers import _perform

    client = Tag.cached.cache.client
    effect = next(operation)
    try:
        while True:
            if isinstance(effect, Load):
                rename()
            effect = operation.send(_perform(effect, client.nodes, {}))
    except StopIteration as stopped:
        return stopped.value


def test_a_row_that_is_renamed_between_two_reads_is_not_returned() -> None:
    """A cached lookup names a row that has another name when it is loaded: a query by the name decides."""
    tags = [Tag.objects.create(name="wanted"), Tag.objects.create(name="other")]
    names = ["wanted", "other"]
    place = Tag.cached._place

    def swap() -> None:
        names.reverse()
        Tag.objects.filter(pk=tags[0].pk).update(name="moving")
        for tag, name in zip(reversed(tags), reversed(names), strict=True):
            Tag.objects.filter(pk=tag.pk).update(name=name)

    assert Tag.cached.get(name="wanted") == tags[0]  # stores the lookup, and not the row
    found = rename_while_read(
        Tag.cached._reads.get(Tag.cached._keys.fields["name"], "wanted", place, lambda loader: loader), swap
    )
    assert found.name == "wanted"
    assert Tag.cached.get(name="wanted").name == "wanted"


# Composite primary keys


def test_a_composite_primary_key_has_one_entry(call: Call) -> None:
    """Given as a tuple, as a list, or as texts."""
    Line.objects.create(order=1, number=2, text="old")
    forms: list[Any] = [(1, 2), [1, 2], ("1", "2")]
    assert [call(Line.cached, "get", pk=pk).text for pk in forms] == ["old"] * 3
    Line(order="1", number="2", text="new").save()
    assert [call(Line.cached, "get", pk=pk).text for pk in forms] == ["new"] * 3
    with CaptureQueriesContext(connection) as captured:
        assert [row.text for row in call(Line.cached, "in_bulk", [["1", 2]]).values()] == ["new"]
    assert len(captured) == 0
    Line.objects.filter(pk=(1, 2)).delete()
    assert pk_or_none(Line, pk=(1, 2)) is None


def test_many_rows_with_composite_keys_are_loaded_and_audited(call: Call) -> None:
    """The rows are found by their tuples."""
    for number in range(3):
        Line.objects.create(order=1, number=number, text=str(number))
    found = call(Line.cached, "in_bulk", [(1, 0), (1, 2), (1, 7)])
    assert {pk: row.text for pk, row in found.items()} == {(1, 0): "0", (1, 2): "2"}
    result = audit.audit(Line.cached, windows=[0.0])
    assert (result.sampled, result.cached, result.differing) == (3, 2, {0.0: 0})


# Databases and namespaces


class Tenants:
    """A router that picks the database of a tenant."""

    using = "default"

    def db_for_read(self, *_: object, **__: object) -> str:
        return self.using

    db_for_write = db_for_read


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
def test_each_database_has_its_own_rows_and_tags(settings: Any, ring_cache: RingCache) -> None:
    """A router that picks another database reads another row, and its writes end other values."""
    for using in ("default", "lite"):
        Article.objects.using(using).bulk_create([Article(pk=1, slug="s", title=using)])
    settings.DATABASE_ROUTERS = [router := Tenants()]

    @cached(60, tags=[Article])
    def titles(using: str) -> list[str]:
        return list(Article.objects.values_list("title", flat=True))

    for _ in range(2):
        for router.using in ("default", "lite"):
            assert Article.cached.get(pk=1).title == router.using
            assert Article.cached.get(slug="s").title == router.using
            assert titles(router.using) == [router.using]
    Article.objects.update(title="new")
    assert (Article.cached.get(pk=1).title, titles("lite")) == ("new", ["new"])
    router.using = "default"
    with CaptureQueriesContext(connection) as captured:
        assert (Article.cached.get(pk=1).title, titles("default")) == ("default", ["default"])
    assert len(captured) == 0
    invalidate(Article)
    with CaptureQueriesContext(connection) as captured:
        titles("default")
    assert len(captured) == 1


def test_another_alias_of_one_database_invalidates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler, for example: a write through it ends what is cached of the other alias."""
    pooler = connections.settings["default"] | {"HOST": "pooler"}
    monkeypatch.setitem(connections.settings, "pooler", pooler)
    row = [{"pk": 1, "slug": "s"}]
    assert set(Article.cached.keys_of(row, "pooler")) == set(Article.cached.keys_of(row, "default"))
    assert Article.cached.cache.key_bytes(Article.cached.key_of(pk=1)) in Article.cached.keys_of(
        row, "pooler"
    )


namespace = "one"


def current_namespace() -> str:
    return namespace


@pytest.fixture
def in_namespace(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that changes the namespace."""
    settings.RINGCACHE = {"namespace": f"{__name__}.current_namespace"}
    return lambda name: monkeypatch.setitem(globals(), "namespace", name)


def test_each_namespace_has_its_own_rows_and_results(
    in_namespace: Callable[[str], None], ring_cache: RingCache, call: Call
) -> None:
    """A row that one tenant has cached is a miss in another one, and a write ends its own tenant's row."""
    article = Article.objects.create(slug="s", title="old")

    @cached(60)
    def where() -> str:
        return namespace

    keys = set()
    for name in ("one", "two"):
        in_namespace(name)
        with CaptureQueriesContext(connection) as captured:
            assert call(Article.cached, "get", pk=article.pk).title == "old"
            assert list(call(Article.cached, "in_bulk", [article.pk])) == [article.pk]
        assert len(captured) == 1
        assert where() == name
        keys |= {Article.cached.key_of(pk=article.pk), ring_cache.tag_bytes(Article)}
    assert len(keys) == 4
    Article.objects.filter(pk=article.pk).update(title="new")
    assert call(Article.cached, "get", pk=article.pk).title == "new"


# Tags


def test_tags_are_not_among_the_keys_of_callers(ring_cache: RingCache) -> None:
    """A caller's key may have the text of a tag; ``keys`` shows no tag; ``clear`` deletes them all."""
    ring_cache.get_or_set("page", "old", tags=["python", Article])
    ring_cache.set("tag:python", "mine")
    ring_cache.set(f"rows:{scope_of('default')}:demo_article", "mine")
    assert ring_cache.get("page") == "old"
    assert sorted(ring_cache.keys("*")) == [
        "page",
        f"rows:{scope_of('default')}:demo_article",
        "tag:python",
    ]
    ring_cache.invalidate_tags("python")
    assert (ring_cache.get("page"), ring_cache.get("tag:python")) == (None, "mine")
    ring_cache.clear()
    tag = ring_cache.tag_bytes("python")
    assert not ring_cache.client.run(protocol.telemetry.inspect(ring_cache.client.context, tag)).record


@pytest.mark.parametrize("form", [int, str])
def test_a_tag_of_a_row_is_one_key_in_every_form(ring_cache: RingCache, form: type) -> None:
    """The instance may hold its primary key as text."""
    article = Article.objects.create(slug="s", title="old")
    ring_cache.get_or_set("page", "old", tags=[Article(pk=form(article.pk))])
    assert ring_cache.get("page") == "old"
    article.save()
    assert ring_cache.get("page") is None


@pytest.mark.parametrize("form", [str, lambda pk: pk.hex, lambda pk: pk.hex.upper()])
def test_a_cached_manager_makes_its_model_and_rows_tags(ring_cache: RingCache, form: Any) -> None:
    """The model needs no other manager; a tag of a row may have its primary key as text."""
    token = Token.objects.create()
    for key, tag in (("all", Token), ("one", Token(pk=form(token.pk)))):
        assert ring_cache.get_or_set(key, "old", tags=[tag]) == "old"
    Token.objects.filter(pk=token.pk).update(code=token.pk)
    assert ring_cache.get_many(["all", "one"]) == {}
    ring_cache.get_or_set("one", "old", tags=[Token(pk=form(token.pk))])
    invalidate(Token(pk=token.pk))
    assert ring_cache.get("one") is None


def test_a_model_that_nothing_watches_is_refused_as_a_tag(ring_cache: RingCache) -> None:
    """Before anything is loaded; a setting watches the models of other apps."""
    from django.contrib.auth.models import Group

    calls: list[int] = []
    for refused in (
        lambda: ring_cache.get_or_set("k", lambda: calls.append(1), tags=[Group]),
        lambda: ring_cache.invalidate_tags(Group),
        lambda: invalidate("front", Group),
        lambda: invalidate(Group(pk=1)),
        cached(60, tags=[Group])(lambda: calls.append(1)),
    ):
        with pytest.raises(ImproperlyConfigured, match=r'RINGCACHE = {"models": {"auth.Group": {}}}'):
            refused()
    assert calls == []


# Collations


class Named(models.Model):
    """A model whose tables the tests make, with columns of several kinds."""

    name = models.CharField(max_length=50, unique=True)
    word = models.CharField(max_length=50, primary_key=True)

    class Meta:
        app_label = "shop"
        apps = Apps()
        db_table = "named"


@pytest.fixture
def names() -> Iterator[Callable[[str, str], CachedManager[Named]]]:
    """Return a function that makes the table with a type of text, and returns a manager of its rows."""
    made: list[str] = []

    def make(kind: str, using: str) -> CachedManager[Named]:
        made.append(using)
        with connections[using].cursor() as cursor:
            cursor.execute(f"CREATE TABLE named (name {kind} UNIQUE, word {kind} PRIMARY KEY)")
            if kind != "macaddr":
                cursor.execute("INSERT INTO named VALUES ('bob', 'key')")
        manager: CachedManager[Named] = CachedManager(lookups=["name"], missing_timeout=60)
        manager.model = Named
        return manager

    yield make
    for using in made:
        with connections[using].cursor() as cursor:
            cursor.execute("DROP TABLE named")
    collations._exact.clear()


KINDS = [
    pytest.param("default", "char(50)", "the type char\\(n\\)", marks=pytest.mark.postgres),
    ("lite", "varchar(50) COLLATE NOCASE", "the collation NOCASE"),
]


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.parametrize(("using", "kind", "reason"), KINDS)
def test_a_lookup_that_holds_different_texts_equal_is_refused(
    names: Any, settings: Any, using: str, kind: str, reason: str
) -> None:
    """Its absence could outlive the insert of an equal text; the message says what to do."""
    settings.DATABASE_ROUTERS = [router := Tenants()]
    router.using = using
    manager = names(kind, using)
    with pytest.raises(ImproperlyConfigured, match=f"by 'name': different .* by {reason}. Remove it"):
        manager.get(name="bob")
    with pytest.raises(ImproperlyConfigured, match=f"by 'word': .*{reason}. Remove missing_timeout"):
        manager.get(pk="none")
    with pytest.raises(ImproperlyConfigured, match="Remove missing_timeout"):
        manager.in_bulk(["none"])


@pytest.mark.postgres
def test_a_lookup_in_a_column_of_another_type_is_refused(names: Any) -> None:
    """Postgres holds ``08-00-2b-01-02-03`` and ``08:00:2b:01:02:03`` equal."""
    with pytest.raises(ImproperlyConfigured, match="equal by the type macaddr. Remove it"):
        names("macaddr", "default").get(name="08-00-2b-01-02-03")


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.parametrize("using", ["default", "lite"])
def test_the_catalogue_is_asked_once_for_each_column(names: Any, settings: Any, using: str) -> None:
    """A process runs one query for each column."""
    settings.DATABASE_ROUTERS = [router := Tenants()]
    router.using = using
    manager = names("varchar(50)", using)
    counts = []
    for name in ("none", "nothing"):
        with CaptureQueriesContext(connections[using]) as captured, pytest.raises(Named.DoesNotExist):
            manager.get(name=name)
        counts.append(len(captured))
    assert counts[0] > counts[1] == 1
    assert manager.get(name="bob").word == "key"


# Checks


def test_a_namespace_must_be_a_function(settings: Any) -> None:
    """The check names the path."""
    assert checks.check_namespace() == []
    settings.RINGCACHE = {"namespace": f"{__name__}.no_such_function"}
    [found] = checks.check_namespace()
    assert found.id == "ringcache.E010"
    assert "no_such_function" in found.msg


def test_a_namespace_excludes_triggers_and_write_behind(in_namespace: object) -> None:
    """Neither knows the namespace of a row that it writes."""
    found = checks.check_namespace_of_writers()
    assert {message.id for message in found} == {"ringcache.E011"}
    assert {message.obj for message in found} >= {Author, Article}


def test_a_check_finds_lookups_that_hold_different_texts_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the databases that the command names."""
    assert checks.check_lookup_collations(databases=["default"]) == []
    monkeypatch.setattr(
        checks.caching, "inexact_collation", lambda field, _: "citext" if field.name == "slug" else None
    )
    assert checks.check_lookup_collations() == []
    [found] = checks.check_lookup_collations(databases=["default"])
    assert (found.id, found.obj) == ("ringcache.E012", Article)


def test_checks_report_lookups_and_keys_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads by such a lookup raise; writes do not, and rows are found by their other keys."""
    monkeypatch.setattr(Article.cached, "lookups", ("slug", "title"))
    monkeypatch.setattr(Article.cached, "_keys", RowKeys(Article, ["slug", "title"]))
    [found] = checks.check_lookups()
    assert (found.id, found.obj) == ("ringcache.E017", Article)
    article = Article.objects.create(slug="a", title="A")
    assert Article.cached.get(slug="a") == article
    with pytest.raises(ImproperlyConfigured, match="the lookup 'title' is not a unique field"):
        Article.cached.get(title="A")
    assert Article not in {each.obj for each in checks.check_primary_keys()}  # managers remember the answer
    monkeypatch.setattr(canonical, "_KINDS", {})
    canonical._kind_of.cache_clear()
    monkeypatch.setattr(Article.cached, "_keys", RowKeys(Article, []))
    found = next(each for each in checks.check_primary_keys() if each.obj is Article)
    monkeypatch.undo()
    canonical._kind_of.cache_clear()
    assert found.id == "ringcache.W013"


def test_a_column_that_the_codec_cannot_hold_is_reported(settings: Any) -> None:
    """JSON has no dates, decimals and UUIDs; without the check each read that fills would raise."""
    block, found = settings.CACHES["default"], {}
    for codec in ("json", "msgpack"):
        options = block.get("OPTIONS", {}) | {"codec": codec}
        settings.CACHES = settings.CACHES | {"default": block | {"OPTIONS": options}}
        found[codec] = {each.obj: each for each in checks.check_columns_of_codecs()}
    assert found["msgpack"] == {}
    assert {each.id for each in found["json"].values()} == {"ringcache.E016"}
    columns = {
        model.__name__: message.msg.partition("cannot hold ")[2].partition(":")[0]
        for model, message in found["json"].items()
    }
    assert columns["Article"] == "price, last_viewed, updated"
    assert columns["Author"] == "code"


class MomentField(models.DateTimeField):  # type: ignore[type-arg]  # generic in the stubs only
    """A field of a project whose type has a name of its own."""

    def get_internal_type(self) -> str:
        return "MomentField"


@pytest.mark.parametrize(
    ("field", "refusing"),
    [
        (ArrayField(models.DateField()), {"json"}),
        (ArrayField(ArrayField(models.UUIDField())), {"json"}),
        (ArrayField(models.IntegerField()), set()),
        (IntegerRangeField(), {"json", "msgpack"}),
        (ArrayField(DateTimeRangeField()), {"json", "msgpack"}),
        (MomentField(), {"json"}),
        (models.JSONField(), set()),
    ],
)
def test_a_codec_holds_the_values_of_some_fields(field: Any, refusing: set[str]) -> None:
    """The elements of an array count, and the class of a field that has its own type."""
    assert {codec for codec in ("json", "msgpack") if not _can_hold(codec, field)} == refusing

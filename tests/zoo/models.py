"""Models of every relation, inheritance, key and mode; the differential tests write and read them.

The models form families. Relations stay inside a family, so a test of one family reads only its
tables. Each family is defined by ``FAMILIES``.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models.functions import Now, Upper

from cachebackend import CachedManager, InvalidatingManager

#: Seconds.
MISSING = 60


class Row(models.Model):
    """A unique text, by which rows are looked up, and a number."""

    name = models.CharField(max_length=40, unique=True)
    rank = models.IntegerField(default=0)

    class Meta:
        abstract = True


# Foreign keys, and what becomes of the rows that refer to a deleted row


class Author(Row):
    cached = CachedManager["Author"](lookups=["name"], missing_timeout=MISSING)


class Poem(Row):
    author = models.ForeignKey(Author, models.CASCADE, null=True)

    cached = CachedManager["Poem"](lookups=["name"])


class Letter(Row):
    author = models.ForeignKey(Author, models.SET_NULL, null=True)

    cached = CachedManager["Letter"](lookups=["name"])


class Reply(Row):
    """Another model of the table of letters, with other columns, which Django does not manage."""

    cached = CachedManager["Reply"](lookups=["name"])

    class Meta:
        managed = False
        db_table = "zoo_letter"


class Note(Row):
    author = models.ForeignKey(Author, models.SET_DEFAULT, default=1)

    cached = CachedManager["Note"]()


def second_author() -> int:
    return 2


class Memo(Row):
    author = models.ForeignKey(Author, models.SET(second_author), null=True)

    cached = CachedManager["Memo"]()


class Draft(Row):
    author = models.ForeignKey(Author, models.DO_NOTHING, null=True, db_constraint=False)

    cached = CachedManager["Draft"]()


class Desk(Row):
    author = models.OneToOneField(Author, models.SET_NULL, null=True)

    cached = CachedManager["Desk"](lookups=["author"], missing_timeout=MISSING)


class Branch(Row):
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")

    cached = CachedManager["Branch"](lookups=["name"], missing_timeout=MISSING)


# Many-to-many and generic relations


class Label(Row):
    cached = CachedManager["Label"](lookups=["name"])


class Mark(Row):
    content_type = models.ForeignKey(ContentType, models.CASCADE, null=True, db_constraint=False)
    object_id = models.BigIntegerField(null=True)
    target = GenericForeignKey()

    cached = CachedManager["Mark"](lookups=["name"])


class Post(Row):
    labels = models.ManyToManyField(Label, related_name="posts")
    credited = models.ManyToManyField(Label, through="Credit", related_name="credited_posts")
    friends = models.ManyToManyField("self")
    marks = GenericRelation(Mark)

    cached = CachedManager["Post"](lookups=["name"])


class Credit(models.Model):
    post = models.ForeignKey(Post, models.CASCADE)
    label = models.ForeignKey(Label, models.CASCADE)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Credit"]()


# Inheritance


class Place(Row):
    cached = CachedManager["Place"](lookups=["name"], missing_timeout=MISSING)


class EarlyPlace(Place):
    """A proxy that is defined before any child."""

    class Meta:
        proxy = True


class Inn(Place):
    """A child without a cache of its own."""

    beds = models.IntegerField(default=0)


class Bar(Place):
    taps = models.IntegerField(default=0)

    cached = CachedManager["Bar"](lookups=["name"], missing_timeout=MISSING)


class Pub(Bar):
    """A grandchild."""

    darts = models.IntegerField(default=0)

    cached = CachedManager["Pub"](lookups=["name"])


class LateBar(Bar):
    """A proxy of a child, with a cache of its own."""

    cached = CachedManager["LateBar"](lookups=["name"])

    class Meta:
        proxy = True


class Kiosk(Place):
    """A child whose primary key is not the key of its parent."""

    place = models.OneToOneField(Place, models.CASCADE, parent_link=True)
    code = models.CharField(max_length=40, primary_key=True)

    cached = CachedManager["Kiosk"](lookups=["name"])


class Motor(Row):
    motor_id = models.AutoField(primary_key=True)

    cached = CachedManager["Motor"](lookups=["name"])


class Hull(models.Model):
    hull_id = models.AutoField(primary_key=True)
    title = models.CharField(max_length=40, unique=True)
    weight = models.IntegerField(default=0)

    cached = CachedManager["Hull"](lookups=["title"])


class Boat(Motor, Hull):
    """A child of two parents."""

    cached = CachedManager["Boat"](lookups=["name", "title"])


class Invalidating(Row):
    """An abstract base that brings its manager."""

    objects = InvalidatingManager()

    class Meta:
        abstract = True


class Essay(Invalidating):
    cached = CachedManager["Essay"](lookups=["name"], missing_timeout=MISSING)


# Keys and columns


class Token(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    code = models.UUIDField(unique=True, null=True)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Token"](lookups=["code"], missing_timeout=MISSING)


class Word(models.Model):
    text = models.CharField(max_length=300, primary_key=True)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Word"](missing_timeout=MISSING)


class Stock(models.Model):
    """A row that two columns identify."""

    pk = models.CompositePrimaryKey("shop", "sku")
    shop = models.IntegerField()
    sku = models.CharField(max_length=40)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Stock"]()


class Price(models.Model):
    amount = models.DecimalField(max_digits=10, decimal_places=2, unique=True, null=True)
    since = models.DateTimeField(unique=True, null=True)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Price"](lookups=["amount", "since"], missing_timeout=MISSING)


class Sum(models.Model):
    """A lookup that the database computes."""

    rank = models.IntegerField(unique=True)
    twice = models.GeneratedField(
        expression=models.F("rank") * 2, output_field=models.IntegerField(), db_persist=True, unique=True
    )
    made = models.DateTimeField(db_default=Now())

    cached = CachedManager["Sum"](lookups=["rank", "twice"], missing_timeout=MISSING)


class Nickname(models.Model):
    """A lookup that may be NULL, and one with a default of the database."""

    name = models.CharField(max_length=40, unique=True, null=True)  # noqa: DJ001  # NULL is the point
    code = models.IntegerField(unique=True, db_default=7)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Nickname"](lookups=["name", "code"], missing_timeout=MISSING)


class Seat(models.Model):
    """A constraint over two columns, which upserts name."""

    hall = models.IntegerField()
    rank = models.IntegerField(default=0)
    name = models.CharField(max_length=40, unique=True)

    cached = CachedManager["Seat"](lookups=["name", ("hall", "rank")], missing_timeout=MISSING)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["hall", "rank"], name="zoo_one_seat"),)


# Modes of the cache


class Account(Row):
    cached = CachedManager["Account"](lookups=["name"], missing_timeout=MISSING, consistency="strict")


class Entry(Row):
    account = models.ForeignKey(Account, models.CASCADE, null=True)

    cached = CachedManager["Entry"](lookups=["name"], consistency="strict")


class Profile(Row):
    cached = CachedManager["Profile"](lookups=["name"], missing_timeout=MISSING, write="through")


class Fan(Row):
    profile = models.ForeignKey(Profile, models.SET_NULL, null=True)

    objects = InvalidatingManager()
    cached = CachedManager["Fan"](lookups=["name"], write="through")


# Triggers


class Singer(Row):
    cached = CachedManager["Singer"](lookups=["name"], missing_timeout=MISSING, triggers=True)


class Song(Row):
    singer = models.ForeignKey(Singer, models.CASCADE, null=True)

    cached = CachedManager["Song"](lookups=["name"], missing_timeout=MISSING, triggers=True)


class Verse(Row):
    """A lookup by a foreign key, which may be NULL, and a number."""

    song = models.ForeignKey(Song, models.CASCADE, null=True)

    cached = CachedManager["Verse"](lookups=[("rank", "song")], missing_timeout=MISSING, triggers=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["song", "rank"], name="zoo_one_verse"),)


class Hymn(Song):
    verses = models.IntegerField(default=0)

    cached = CachedManager["Hymn"](lookups=["name"], triggers=True)


# Values that Python and the database hold in different forms


class Shifted(models.IntegerField):
    """A field whose column holds another number than the one that Python sees."""

    SHIFT = 1000

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else int(value) + self.SHIFT

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return None if value is None else value - self.SHIFT


class Lowered(models.CharField):
    """A field that ignores case."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        value = super().get_db_prep_value(value, connection, prepared)
        return value.lower() if isinstance(value, str) else value


class Moment(Row):
    """A row whose columns may hold values that Python cannot read."""

    at = models.DateTimeField(unique=True, null=True)
    day = models.DateField(unique=True, null=True)
    amount = models.DecimalField(unique=True, null=True, max_digits=9, decimal_places=2)
    hash = models.BinaryField(unique=True, null=True)
    length = models.DurationField(null=True)

    cached = CachedManager["Moment"](
        lookups=["name", "at", "day", "amount", "hash"], missing_timeout=MISSING, triggers=True
    )


class Arrival(Row):
    """A row whose primary key a caller may write in several ways."""

    at = models.DateTimeField(primary_key=True)

    cached = CachedManager["Arrival"](lookups=["name"], missing_timeout=MISSING, triggers=True)


class Bill(Row):
    """A row whose primary key has another form in the database."""

    number = Shifted(primary_key=True)

    cached = CachedManager["Bill"](lookups=["name"], missing_timeout=MISSING, triggers=True)


class Handle(Row):
    """A row whose primary key ignores case."""

    code = Lowered(max_length=40, primary_key=True)

    cached = CachedManager["Handle"](missing_timeout=MISSING)


class Topic(Row):
    """A row at the end of a relation of a model with triggers."""

    cached = CachedManager["Topic"]()


class Sample(Row):
    """A column of each kind that queries may bind, and of some others, in a table with triggers."""

    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="parts")
    topics = models.ManyToManyField(Topic, related_name="samples")
    topic_name = models.ForeignKey(Topic, models.SET_NULL, null=True, to_field="name", related_name="+")
    small = models.SmallIntegerField(null=True)
    large = models.BigIntegerField(null=True)
    flag = models.BooleanField(null=True)
    price = models.DecimalField(max_digits=12, decimal_places=4, null=True)
    at = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    code = models.UUIDField(null=True)
    label = models.CharField(max_length=200, null=True)  # noqa: DJ001  # NULL is the point
    slug = models.SlugField(null=True)  # noqa: DJ001  # NULL is the point
    note = models.TextField(max_length=100, null=True)  # noqa: DJ001  # NULL is the point
    file = models.FileField(null=True)
    loud = models.GeneratedField(
        expression=Upper("label"), output_field=models.CharField(max_length=200), db_persist=True
    )
    essay = models.TextField(default="")
    weight = models.FloatField(null=True)
    data = models.JSONField(null=True)
    #: The functions of triggers have variables of these names.
    chunk = models.IntegerField(null=True)
    outbox = models.IntegerField(null=True)

    cached = CachedManager["Sample"](triggers=True)


# Databases


class Tenant(Row):
    """A row whose database the router picks."""

    cached = CachedManager["Tenant"](lookups=["name"], missing_timeout=MISSING)


class Guest(Row):
    tenant = models.ForeignKey(Tenant, models.SET_NULL, null=True)

    cached = CachedManager["Guest"](lookups=["name"])


# What only queries read


class Genre(Row):
    cached = CachedManager["Genre"]()

    class Meta:
        ordering = ("-rank", "id")


class Novel(Row):
    """A row of each kind of column, in the order of a related table."""

    genre = models.ForeignKey(Genre, models.CASCADE, null=True)
    author = models.ForeignKey(Author, models.SET_NULL, null=True, related_name="novels")
    shelf = models.ForeignKey("Shelf", models.SET_NULL, null=True, to_field="sign")
    sequel = models.OneToOneField("self", models.SET_NULL, null=True, related_name="prequel")
    labels = models.ManyToManyField(Label, related_name="novels")
    is_sold = models.BooleanField(default=False)
    price = models.DecimalField(max_digits=6, decimal_places=2, null=True)
    weight = models.FloatField(null=True)
    since = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    code = models.UUIDField(null=True)
    shade = models.CharField(max_length=20, null=True)  # noqa: DJ001  # NULL is the point
    data = models.JSONField(default=dict)
    loud = models.GeneratedField(
        expression=Upper("shade"), output_field=models.CharField(max_length=20), db_persist=True
    )

    cached = CachedManager["Novel"]()

    class Meta:
        ordering = ("genre", "name", "id")


class Shelf(models.Model):
    """A row that a foreign key refers to by another column than its primary key."""

    hall = models.IntegerField()
    side = models.IntegerField()
    sign = models.CharField(max_length=20, unique=True)
    rank = models.IntegerField(default=0)

    cached = CachedManager["Shelf"]()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["hall", "side"], name="zoo_one_shelf"),)


class Visit(Row):
    """A row that is joined by two columns."""

    city = models.CharField(max_length=20, null=True)  # noqa: DJ001  # NULL is the point
    hall = models.IntegerField(null=True)
    side = models.IntegerField(null=True)
    shelf = models.ForeignObject(
        Shelf, models.DO_NOTHING, from_fields=["hall", "side"], to_fields=["hall", "side"], null=True
    )

    cached = CachedManager["Visit"]()


#: The models of each family, parents before children.
FAMILIES: dict[str, tuple[type[models.Model], ...]] = {
    "relations": (Author, Poem, Letter, Note, Memo, Draft, Desk, Branch),
    "many": (Label, Post, Credit, Mark),
    "inheritance": (Place, EarlyPlace, Inn, Bar, Pub, LateBar, Kiosk, Motor, Hull, Boat, Essay),
    "columns": (Token, Word, Stock, Price, Sum, Nickname, Seat),
    "modes": (Account, Entry, Profile, Fan),
    "triggers": (Singer, Song, Verse, Hymn),
    "values": (Moment, Arrival, Bill, Handle),
    "databases": (Tenant, Guest),
}

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now

from cachebackend import CachedManager, InvalidatingManager, WriteBehindManager


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)

    objects = InvalidatingManager()
    cached = CachedManager["Tag"](lookups=["name"])


class Product(models.Model):
    name = models.CharField(max_length=50)
    tags = models.ManyToManyField(Tag, related_name="products")

    objects = InvalidatingManager()
    cached = CachedManager["Product"]()


class Book(Product):
    pages = models.IntegerField(default=0)

    objects = InvalidatingManager()
    cached = CachedManager["Book"]()


class SaleProduct(Product):
    objects = InvalidatingManager()

    class Meta:
        proxy = True


class Named(models.Model):
    """An abstract model whose managers every kind of child inherits."""

    name = models.CharField(max_length=50, unique=True)

    objects = InvalidatingManager()
    cached = CachedManager["Named"](lookups=["name"])

    class Meta:
        abstract = True


class Shelf(Named):
    pass


class Bookcase(Shelf):
    height = models.IntegerField(default=0)


class TopShelf(Shelf):
    class Meta:
        proxy = True


class KeptManager(models.Manager["Note"]):
    def get_queryset(self) -> models.QuerySet[Note]:
        return super().get_queryset().filter(removed=False)


class Note(models.Model):
    """A row that is marked, and not deleted."""

    text = models.CharField(max_length=50)
    removed = models.BooleanField(default=False)

    objects = KeptManager()
    everything = models.Manager["Note"]()
    cached = CachedManager["Note"](missing_timeout=60, base_manager="objects")
    cached_everything = CachedManager["Note"]()


class Ticket(models.Model):
    """A row whose keys the database makes."""

    id = models.IntegerField(primary_key=True, db_default=models.Value(1))
    number = models.IntegerField(unique=True, db_default=models.Value(7))

    objects = InvalidatingManager()
    cached = CachedManager["Ticket"](lookups=["number"], missing_timeout=60)


class Review(models.Model):
    product = models.ForeignKey(Product, models.CASCADE)
    text = models.TextField()

    cached = CachedManager["Review"]()


class Meter(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    count = models.BigIntegerField(default=0, db_column="Odd Name")
    total = models.DecimalField(max_digits=40, decimal_places=2, default=0)
    level = models.IntegerField(null=True)
    seen = models.DateTimeField(null=True)
    label = models.CharField(max_length=50, blank=True)
    data = models.JSONField(null=True)
    tag = models.ForeignKey(Tag, models.SET_NULL, null=True)

    behind = WriteBehindManager["Meter"](fields=["count", "total", "level", "seen", "label", "data", "tag"])


class Author(models.Model):
    name = models.CharField(max_length=50, unique=True)
    code = models.UUIDField(default=uuid.uuid4, unique=True)

    objects = InvalidatingManager()
    cached = CachedManager["Author"](lookups=["name", "code"], missing_timeout=60, triggers=True)


class Poem(models.Model):
    author = models.ForeignKey(Author, models.CASCADE)
    title = models.CharField(max_length=50)

    objects = InvalidatingManager()
    cached = CachedManager["Poem"](triggers=True)


class Sonnet(Poem):
    lines = models.IntegerField(default=14)

    objects = InvalidatingManager()
    cached = CachedManager["Sonnet"](triggers=True)


class Line(models.Model):
    """A row whose primary key has two columns."""

    pk = models.CompositePrimaryKey("order", "number")
    order = models.IntegerField()
    number = models.IntegerField()
    text = models.CharField(max_length=50)

    objects = InvalidatingManager()
    cached = CachedManager["Line"](missing_timeout=60)


class Coin(models.Model):
    """A row with a text as primary key, and lookups of several kinds."""

    code = models.CharField(max_length=700, primary_key=True)
    name = models.CharField(max_length=50, unique=True, null=True)  # noqa: DJ001  # several have none
    worth = models.DecimalField(max_digits=8, decimal_places=2, unique=True, null=True)
    minted = models.DateTimeField(unique=True, null=True)
    tag = models.OneToOneField(Tag, models.CASCADE, null=True)

    objects = InvalidatingManager()
    cached = CachedManager["Coin"](lookups=["name", "worth", "minted", "tag"], missing_timeout=60)


class Target(models.Model):
    code = models.CharField(max_length=20, primary_key=True)


class Everything(models.Model):
    """A column of each kind that travels."""

    flag = models.BooleanField(null=True)
    small = models.SmallIntegerField(null=True)
    positive_small = models.PositiveSmallIntegerField(null=True)
    large = models.BigIntegerField(null=True)
    positive_large = models.PositiveBigIntegerField(null=True)
    decimal = models.DecimalField(max_digits=30, decimal_places=10, null=True)
    real = models.FloatField(null=True)
    day = models.DateField(null=True)
    clock = models.TimeField(null=True)
    moment = models.DateTimeField(null=True)
    length = models.DurationField(null=True)
    identity = models.UUIDField(null=True)
    document = models.JSONField(null=True)
    line = models.CharField(max_length=300, null=True)  # noqa: DJ001  # so that NULL travels too
    text = models.TextField(null=True)  # noqa: DJ001
    binary = models.BinaryField(null=True)
    address = models.GenericIPAddressField(null=True)
    target = models.ForeignKey(Target, models.SET_NULL, null=True)
    made = models.IntegerField(db_default=7)
    odd = models.CharField(max_length=3, choices=[("a", "A")], default="a", db_column="we ird X")

    behind = WriteBehindManager["Everything"](
        fields=[
            "flag",
            "small",
            "positive_small",
            "large",
            "positive_large",
            "decimal",
            "real",
            "day",
            "clock",
            "moment",
            "length",
            "identity",
            "document",
            "line",
            "text",
            "binary",
            "address",
            "target",
            "made",
            "odd",
        ]
    )

    class Meta:
        db_table = "every odd table"


class Stamped(models.Model):
    """A row whose default only the database can make."""

    made = models.DateTimeField(db_default=Now())

    behind = WriteBehindManager["Stamped"](fields=["made"])


class Photo(models.Model):
    """A row of which one column cannot travel, and the other is asked about by its field alone."""

    file = models.FileField(blank=True)
    views = models.IntegerField(default=0)

    behind = WriteBehindManager["Photo"](fields=["views"])

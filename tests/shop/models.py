from __future__ import annotations

import uuid

from django.db import models

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

"""The demo's only model. Its three managers are all that the ring cache needs in a model."""

from __future__ import annotations

from django.db import models
from django.urls import reverse

from cachebackend import CachedManager, InvalidatingManager, WriteBehindManager

__all__ = ["Article"]


class Article(models.Model):
    """Something to read; in ``replay``, a block of the trace."""

    slug = models.SlugField(max_length=100, unique=True)
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    views = models.BigIntegerField(default=0, editable=False)
    last_viewed = models.DateTimeField(null=True, editable=False)
    updated = models.DateTimeField(auto_now=True)

    objects = InvalidatingManager()
    cached = CachedManager["Article"](lookups=["slug"], timeout=300)
    behind = WriteBehindManager["Article"](fields=["views", "last_viewed"])

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        """Return the address of the article's page."""
        return reverse("article-detail", args=[self.slug])

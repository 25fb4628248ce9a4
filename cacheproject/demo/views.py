"""The pages of the demo."""

from __future__ import annotations

import logging

from django.core.paginator import Paginator
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import cache_page

from cachebackend.errors import NodeUnavailableError, WriteBehindFullError
from cacheproject.demo.models import Article

__all__ = ["article_detail", "article_list"]

logger = logging.getLogger(__name__)
PAGE_ARTICLES = 20


@cache_page(10)
def article_list(request: HttpRequest) -> HttpResponse:
    """All articles, a page at a time; the page itself is cached for ten seconds."""
    page = Paginator(Article.objects.all(), PAGE_ARTICLES).get_page(request.GET.get("page"))
    return render(request, "demo/article_list.html", {"page": page})


def article_detail(request: HttpRequest, slug: str) -> HttpResponse:
    """One article, read through the ring; its view is counted by write-behind."""
    try:
        article = Article.cached.get(slug=slug)
    except Article.DoesNotExist as error:
        raise Http404(str(error)) from error
    try:
        Article.behind.update(article.pk, views=F("views") + 1, last_viewed=timezone.now())
    except (NodeUnavailableError, WriteBehindFullError) as error:  # the page matters more than its count
        logger.warning("a view of %r was not counted: %s", slug, error)
    return render(request, "demo/article_detail.html", {"article": article})

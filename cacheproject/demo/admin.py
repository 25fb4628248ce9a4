"""Articles in the admin. Saving one there invalidates it on the ring."""

from django.contrib import admin

from cacheproject.demo.models import Article

__all__ = ["ArticleAdmin"]


@admin.register(Article)
class ArticleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """List, search and edit articles."""

    list_display = ("title", "slug", "price", "views", "last_viewed")
    search_fields = ("slug", "title")
    readonly_fields = ("views", "last_viewed", "updated")
    show_full_result_count = False

"""The project's pages."""

from django.contrib import admin
from django.urls import path

from cachebackend.prometheus import metrics
from cachebackend.status_page import status
from cacheproject.demo import views

urlpatterns = [
    path("", views.article_list, name="article-list"),
    path("articles/<slug:slug>/", views.article_detail, name="article-detail"),
    path("admin/", admin.site.urls),
    path("metrics/", metrics),
    path("ring-status/", status),
]

from __future__ import annotations

from django.db import models

from cachebackend import CachedManager, InvalidatingManager


class AccountManager(InvalidatingManager):
    use_in_migrations = True


class Account(models.Model):
    name = models.CharField(max_length=50, unique=True)
    level = models.IntegerField(default=0)

    objects = AccountManager()
    cached = CachedManager["Account"](lookups=["name"], missing_timeout=60)

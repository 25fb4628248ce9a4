"""The settings of Django's Redis backend and of django-redis, and what replaces each of them here.

Each text completes a sentence that begins with "here".
"""

from __future__ import annotations

from cachebackend.codec import CODECS, COMPRESSORS

__all__ = ["ALIAS_SETTINGS", "GLOBAL_SETTINGS", "other_backend_option"]

_IN_THE_URL = "it is part of the node's URL in LOCATION"
_NO_POOL = "connections are opened when they are needed, and reused; leave it out"
_CODEC = f"use 'codec': one of {', '.join(map(repr, CODECS))}"
_DJANGO_REDIS = {
    "CLIENT_CLASS": "every alias is a ring; leave it out",
    "CLIENT_CLASS_KWARGS": "every alias is a ring; leave it out",
    "CLOSE_CONNECTION": "connections stay open between requests; leave it out",
    "COMPRESSOR": f"use 'compressor': one of {', '.join(map(repr, COMPRESSORS))}",
    "CONNECTION_FACTORY": "Sentinel is a URL: redis+sentinel://host1,host2/service; leave it out",
    "CONNECTION_POOL_CLASS": _NO_POOL,
    "CONNECTION_POOL_KWARGS": _NO_POOL,
    "DB": _IN_THE_URL,
    "IGNORE_EXCEPTIONS": "use 'on_node_failure': 'miss' (the default) or 'raise'",
    "LOG_IGNORED_EXCEPTIONS": "the logger 'cachebackend' logs the failures of nodes; leave it out",
    "PARSER_CLASS": "hiredis is always the parser; leave it out",
    "PASSWORD": "use 'password', or the node's URL in LOCATION",
    "PICKLE_VERSION": "pickle 5 is written, and every version is read; leave it out",
    "REDIS_CLIENT_CLASS": "the client cannot be chosen; leave it out",
    "REDIS_CLIENT_KWARGS": "they are part of the node's URL in LOCATION",
    "SENTINELS": "Sentinel is a URL: redis+sentinel://host1,host2/service",
    "SENTINEL_KWARGS": "the sentinels' login is part of the URL: ?sentinel_username=…&sentinel_password=…",
    "SERIALIZER": _CODEC,
    "SOCKET_CONNECT_TIMEOUT": "use 'connect_timeout'",
    "SOCKET_TIMEOUT": "use 'socket_timeout'",
    "USERNAME": _IN_THE_URL,
}
#: Django passes options that it does not know to redis-py's pool, so this list is not complete.
_DJANGO = {
    "db": _IN_THE_URL,
    "health_check_interval": "a broken connection is replaced; leave it out",
    "max_connections": _NO_POOL,
    "parser_class": "hiredis is always the parser; leave it out",
    "pool_class": _NO_POOL,
    "retry_on_timeout": "a get of a node that does not answer is a miss; leave it out",
    "serializer": _CODEC,
    "socket_connect_timeout": "use 'connect_timeout'",
    "username": _IN_THE_URL,
}
#: Settings of django-redis in ``CACHES[alias]``, beside OPTIONS.
ALIAS_SETTINGS = {
    "REVERSE_KEY_FUNCTION": "keys() reverses Django's own way of making keys, and no other; leave it out"
}
#: Settings of django-redis in the project's settings.
GLOBAL_SETTINGS = {
    "DJANGO_REDIS_CLOSE_CONNECTION": _DJANGO_REDIS["CLOSE_CONNECTION"],
    "DJANGO_REDIS_CONNECTION_FACTORY": _DJANGO_REDIS["CONNECTION_FACTORY"],
    "DJANGO_REDIS_IGNORE_EXCEPTIONS": f"in OPTIONS {_DJANGO_REDIS['IGNORE_EXCEPTIONS']}",
    "DJANGO_REDIS_LOGGER": "the logger is 'cachebackend'; leave it out",
    "DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS": _DJANGO_REDIS["LOG_IGNORED_EXCEPTIONS"],
    "DJANGO_REDIS_SCAN_ITERSIZE": "it is the itersize of iter_keys(); leave it out",
}


def other_backend_option(name: object) -> str | None:
    """Return which other backend has an option of this name, and what replaces it; None: none has it."""
    if name in _DJANGO_REDIS:
        return f"is an option of django-redis; here {_DJANGO_REDIS[str(name)]}"
    if name in _DJANGO:
        return f"is an option of Django's RedisCache; here {_DJANGO[str(name)]}"
    return None

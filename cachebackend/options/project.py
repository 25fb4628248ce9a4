"""The setting ``RINGCACHE``, one for the project."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachebackend.interrupts import raise_interrupt
from cachebackend.options.cached_models import ModelLabels, check_models
from cachebackend.options.faults import Faults, shown
from cachebackend.options.rules import Word, check_fields

__all__ = ["ProjectOptions", "StatusOptions"]


class _DottedPath:
    """The dotted path of something that can be imported, or nothing."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        is_path = isinstance(value, str) and all(map(str.isidentifier, value.split(".")))
        if value == "" or (is_path and "." in str(value)):
            return None
        return f'must be a dotted path such as "project.tenants.current", got {shown(value)}'


class _Site:
    """A word, or nothing."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        return None if value == "" else Word(64).fault(value)


#: What the options of the status page may have.
_STATUS = frozenset({"addresses", "token"})
#: The fewest characters of a token.
_MIN_TOKEN = 16


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """The options of ``RINGCACHE["status"]``: which requests may see the status page.

    Attributes:
        token: A secret of at least 16 characters, sent as ``Authorization: Bearer`` or as the password that
            a browser asks for. Empty: no token is enough.
        addresses: The addresses and networks whose requests need no token, such as ``["10.0.0.0/8"]``. A
            request that came through a proxy, by its headers, needs one.
    """

    token: str = field(default="", repr=False)
    addresses: tuple[str, ...] = ()


class _Status:
    """A dict with a token, addresses, or both."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is. The message never shows the token."""
        if value is None:
            return None
        if not (isinstance(value, Mapping) and value.keys() <= _STATUS and any(value.values())):
            return 'must be a dict with "token", "addresses" or both'
        token, addresses = value.get("token", ""), value.get("addresses", ())
        if token != "" and not (isinstance(token, str) and len(token) >= _MIN_TOKEN):
            return f"must have a text of at least {_MIN_TOKEN} characters as its token"
        if isinstance(addresses, str) or not isinstance(addresses, Sequence):
            return f"must have a list of addresses, got a {type(addresses).__name__}"
        return next(filter(None, map(_address_fault, addresses)), None)


def _address_fault(address: object) -> str | None:
    try:
        network = ipaddress.ip_network(str(address))
    except ValueError as error:
        raise_interrupt(error)
        return f'must have addresses or networks such as "10.0.0.0/8", got {shown(address)}'
    return f"must not have {network}, which is every address" if network.prefixlen == 0 else None


#: What a direct connection may have instead of its database's own.
_ADDRESS = frozenset({"HOST", "NAME", "OPTIONS", "PASSWORD", "PORT", "USER"})


class _DirectConnections:
    """A dict from aliases of databases to parts of their blocks."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if not isinstance(value, Mapping):
            return (
                f'must be a dict such as {{"default": {{"HOST": "10.0.0.1"}}}}, got a {type(value).__name__}'
            )
        for using, block in value.items():
            if not isinstance(block, Mapping) or not block.keys() <= _ADDRESS:
                known = ", ".join(sorted(_ADDRESS))
                return f"must have a dict of some of {known} for {using!r}"
        return None


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """The options of ``RINGCACHE``.

    Attributes:
        site: The name of the site, which its processes have in common and other sites that use the same nodes
            do not have. By it processes find each other, to report settings in which they differ. Empty: the
            first part of ``ROOT_URLCONF`` and the name of the default database.
        namespace: The dotted path of a function without arguments that returns a text, such as the
            tenant's schema. Rows, tags and results that are cached in one namespace are not read in
            another one. Empty: there is one namespace.
        models: The models that get a manager ``cached`` without a line in them, such as those of other
            people's apps: labels with the arguments of ``CachedManager``, such as
            ``{"auth.User": {"lookups": ["username"], "timeout": 900}, "taggit.*": {}}``. An entry for a model
            replaces that of its app. The models, and each of their rows, can be tags.
        status: Which requests may see the status page, which needs no database: a dict of ``token``, a
            secret of at least 16 characters, and ``addresses``, a list of addresses and networks whose
            requests need no token unless they come through a proxy. None: none may.
        listen: Where the relay listens for notifications, if ``DATABASES`` names a pooler such as pgbouncer:
            for each database the parts of its block that differ in a direct connection, such as
            ``{"default": {"HOST": "10.0.0.1", "PORT": 5432}}``.
    """

    site: str = field(default="", metadata={"rule": _Site()})
    namespace: str = field(default="", metadata={"rule": _DottedPath()})
    models: Mapping[str, Mapping[str, object]] = field(default_factory=dict, metadata={"rule": ModelLabels()})
    listen: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict, metadata={"rule": _DirectConnections()}
    )
    status: StatusOptions | None = field(default=None, metadata={"rule": _Status()})

    @classmethod
    def read(cls, given: object) -> ProjectOptions:
        """Return the options of the setting, validated as a whole.

        Raises:
            ConfigurationError: The setting has faults; the error lists all of them.
        """
        faults = Faults("RINGCACHE")
        if not isinstance(given, Mapping):
            faults.add(None, f"must be a dict, got a {type(given).__name__}")
            faults.raise_any()
            return cls()
        check_fields(cls, given, faults)
        if isinstance(models := given.get("models"), Mapping):
            check_models(models, faults.below("models"))
        faults.raise_any()
        status = given.get("status")
        if isinstance(status, Mapping):
            addresses = tuple(map(str, status.get("addresses", ())))
            given = {**given, "status": StatusOptions(status.get("token", ""), addresses)}
        return cls(**given)

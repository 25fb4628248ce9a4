"""The query of a URL: which parameters a URL of each scheme may have, and which values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from urllib.parse import unquote_plus, urlencode

from cachebackend.options.host import is_database
from cachebackend.options.sentinel import SENTINEL_PARAMETERS, SENTINEL_SCHEME

__all__ = ["CLUSTER_SCHEME", "CLUSTER_TLS_SCHEME", "masked_query", "parameter_fault", "url_parameters"]

CLUSTER_SCHEME = "redis+cluster"
CLUSTER_TLS_SCHEME = "rediss+cluster"
#: Parameters that the query of every node's URL may have.
_PARAMETERS = frozenset({"db", "name", "weight"})
_TLS_PARAMETERS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
    | {"ssl_password"}
)
#: Parameters whose value is one of a few words.
_WORDS = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false", "True", "False", "yes", "no", "1", "0"),
}
#: All parameters that URLs of a scheme may have, where they are others than ``_PARAMETERS``.
_PARAMETERS_OF_SCHEME = {
    "rediss": _PARAMETERS | _TLS_PARAMETERS,
    SENTINEL_SCHEME: _PARAMETERS | SENTINEL_PARAMETERS,
    CLUSTER_SCHEME: frozenset({"db"}),
    CLUSTER_TLS_SCHEME: frozenset({"db"}) | _TLS_PARAMETERS,
}


def url_parameters(query: str) -> list[tuple[str, str]]:
    """Return the names and values of a query. Names are not decoded: a filter looks for ``password=``."""
    parts = [part.partition("=") for part in query.split("&") if part]
    return [(name, unquote_plus(value)) for name, _, value in parts]


def masked_query(parameters: Iterable[tuple[str, str]]) -> str:
    """Return the query that has these parameters; the values of passwords are masked."""
    return urlencode([(name, "***" if "password" in name else value) for name, value in parameters])


def parameter_fault(scheme: str, parameters: Sequence[tuple[str, str]]) -> str | None:
    """Return what is wrong with the parameters of a URL of this scheme; None: nothing is."""
    known = _PARAMETERS_OF_SCHEME.get(scheme, _PARAMETERS)
    given: dict[str, str] = {}
    for number, (parameter, value) in enumerate(parameters, 1):
        if parameter not in known:
            similar = get_close_matches(parameter, known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"known are {', '.join(sorted(known))}"
            return f"parameter {number} of the query is not known; {hint}"
        if parameter in given:
            return f"the parameter {parameter!r} is given twice"
        given[parameter] = value
    if not is_database(given.get("db", "0")):
        return "the database must be a number"
    for parameter, words in _WORDS.items():
        if given.get(parameter, words[0]) not in words:
            return f"the parameter {parameter!r} must be one of {', '.join(words)}"
    return None

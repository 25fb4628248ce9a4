"""Values to the bytes of one key, and back.

``record`` has the layout of those bytes; ``msgpack`` and ``codec`` turn values into
payloads. A writer uses the codec that the settings name; a reader understands every
codec, whatever the settings say. Knows nothing of nodes, keys or time.
"""

from cachebackend.codec import msgpack
from cachebackend.codec.codec import CODECS, Codec
from cachebackend.codec.record import (
    HEADER_BYTES,
    Kind,
    Refresh,
    Stored,
    claimed,
    has_tags,
    is_plain,
    kind_of,
    lease_record,
    lease_token,
    plain_header,
    stored_of,
    tag_record,
)

EncodeError = msgpack.EncodeError
#: The bytes of plain data, the same in every process; raises EncodeError for other.
pack_plain = msgpack.dumps

__all__ = [
    "CODECS",
    "HEADER_BYTES",
    "Codec",
    "EncodeError",
    "Kind",
    "Refresh",
    "Stored",
    "claimed",
    "has_tags",
    "is_plain",
    "kind_of",
    "lease_record",
    "lease_token",
    "pack_plain",
    "plain_header",
    "stored_of",
    "tag_record",
]

"""Values to records (the bytes of one key), and back.

``record`` has the layout of a record, and ``payload`` the codecs that turn a value into its payload;
``msgpack`` and ``compression`` serve them. ``Codec`` writes by the codec that the settings name, and
reads what any codec wrote. The package imports ``clock`` and ``errors`` only. It never connects to a
node, reads the time or knows a key.
"""

from cachebackend.codec import msgpack
from cachebackend.codec.codec import MAX_BYTES, Codec
from cachebackend.codec.compression import COMPRESSORS
from cachebackend.codec.payload import CODECS
from cachebackend.codec.record import (
    HEAD_BYTES,
    HEADER_BYTES,
    LOADED_BYTES,
    RELEASED,
    TAGS_BYTES,
    Kind,
    Refresh,
    Stored,
    claimed,
    fresh_until_of,
    has_tags,
    is_plain,
    kind_of,
    lease_record,
    lease_token,
    loaded_header,
    plain_header,
    stored_of,
    tag_block_of,
    tag_block_span,
    tag_bytes_of,
    tag_record,
    tags_of_block,
    times_of,
)

EncodeError = msgpack.EncodeError
#: Returns the bytes of plain data, the same in every process; raises EncodeError for other values.
pack_plain = msgpack.dumps

__all__ = [
    "CODECS",
    "COMPRESSORS",
    "HEADER_BYTES",
    "HEAD_BYTES",
    "LOADED_BYTES",
    "MAX_BYTES",
    "RELEASED",
    "TAGS_BYTES",
    "Codec",
    "EncodeError",
    "Kind",
    "Refresh",
    "Stored",
    "claimed",
    "fresh_until_of",
    "has_tags",
    "is_plain",
    "kind_of",
    "lease_record",
    "lease_token",
    "loaded_header",
    "pack_plain",
    "plain_header",
    "stored_of",
    "tag_block_of",
    "tag_block_span",
    "tag_bytes_of",
    "tag_record",
    "tags_of_block",
    "times_of",
]

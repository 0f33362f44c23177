"""Under which key of Redis a row lies: `<prefix>:<view>:<entity>`.

An entity id stands in the key as the bytes that the client sent; an integer as its decimal text. There is no hash tag, so that
the rows of a view spread over all slots of a cluster: whoever reads several of them there groups the keys by slot. An id that
holds `{…}` is hashed by what is inside, as Redis Cluster does it; that moves the row and harms nothing.

An entity that takes several ids to name stands in the key as all of them, parted by `:`. In these, and in these alone, `%` is
written `%25` and `:` is written `%3A`, so that ("a:b", "c") and ("a", "b:c") are two entities.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DEFAULT_PREFIX", "MAX_ID_BYTES", "entity_text", "joined_ids", "key_prefix", "parted_ids"]

DEFAULT_PREFIX = "infermesh"
MAX_ID_BYTES = 512  # an id names something; what is longer is a mistake, and would be copied at every hop


def key_prefix(prefix: str, view: str) -> bytes:
    """What stands before the entity in every key of a view."""
    return f"{prefix}:{view}:".encode()


def entity_text(entity: bytes | str | int) -> bytes:
    """The entity as it stands in a key. Raises ValueError for an empty id or one that is too long."""
    text = entity if isinstance(entity, bytes) else str(entity).encode()
    if not text:
        raise ValueError("the entity id is empty")
    if len(text) > MAX_ID_BYTES:
        raise ValueError(f"the entity id has {len(text)} bytes, more than {MAX_ID_BYTES}")
    return text


def joined_ids(ids: Sequence[bytes]) -> bytes:
    """Several ids as one entity stands in a key; a single one stays as it is."""
    if len(ids) == 1:
        return ids[0]
    return b":".join([each.replace(b"%", b"%25").replace(b":", b"%3A") for each in ids])


def parted_ids(entity: bytes, count: int) -> list[bytes]:
    """The ids that were joined. Raises ValueError if they are not so many."""
    if count == 1:
        return [entity]
    ids = [each.replace(b"%3A", b":").replace(b"%25", b"%") for each in entity.split(b":")]
    if len(ids) != count:
        raise ValueError(f"expected {count} ids, got {len(ids)}")
    return ids

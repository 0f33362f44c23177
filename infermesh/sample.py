"""Which calls are in a sample: a property of the request id, so that every service on its way decides alike."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["is_sampled"]


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a call with this id is in a sample of `share`, 0 to 1. A larger share has all calls of a smaller one.

    Who may choose request ids may choose to be in the sample or not.
    """
    if share >= 1:
        return True
    if share <= 0:
        return False
    hashed = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed, "little") < share * 2.0**64

"""By what does a caller say who it is?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["API_KEY", "AUTHORIZATION", "presented"]

API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
BEARER = "bearer "
DOTS_OF_A_TOKEN = 2  # header.payload.signature (RFC 7515, 7.1)

Kind = Literal["key", "token", "nothing"]


def presented(metadata: Mapping[str, str], *, tokens: bool) -> tuple[Kind, str]:
    """The one credential of a call's metadata that counts, by this order:

    1. `x-api-key`: an API key;
    2. `authorization: Bearer …`: a JSON Web Token where tokens are taken and it has two dots, else an API key;
    3. nothing: then the certificate of the connection counts, where there is one.

    What comes first counts alone: a caller with a bad key is refused, and not taken for what else it could be.
    """
    key = metadata.get(API_KEY)
    if key:
        return "key", key
    authorization = metadata.get(AUTHORIZATION)
    if not authorization or authorization[: len(BEARER)].lower() != BEARER:
        return "nothing", ""
    bearer = authorization[len(BEARER) :].strip()
    if tokens and bearer.count(".") == DOTS_OF_A_TOKEN:
        return "token", bearer
    return ("key", bearer) if bearer else ("nothing", "")

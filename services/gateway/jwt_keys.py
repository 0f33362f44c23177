"""Keys that are fetched in the background, and sooner when a token names one that is not known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from infermesh.config import ConfigError
from services.gateway.jwks import KeySet, read_jwks
from services.gateway.jwt_fetch import FetchFailed

__all__ = ["FetchedKeys"]

MAX_WAITING = 256  # calls that wait for keys at a time; past it they are refused at once
FIRST_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class FetchedKeys:
    """Keeps a KeySet as the issuer has it; what can't be fetched or used leaves the last good one.

    However many tokens name keys that nobody knows, the address is asked once at a time, and not twice within `refetch_s`.
    """

    def __init__(
        self,
        keys: KeySet,
        fetch: Callable[[], bytes],
        algorithms: Sequence[str],
        *,
        refresh_s: float,
        refetch_s: float,
        observe: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._fetch = fetch
        self._algorithms = algorithms
        self._refresh_s = refresh_s
        self._refetch_s = refetch_s
        self._observe = observe
        self._clock = clock
        self._wanted = asyncio.Event()
        self._fetched = asyncio.Event()  # replaced after each fetching
        self._is_fetching = False
        self._began_at = float("-inf")
        self._waiting = 0

    async def run(self) -> None:
        """Fetch again and again; ends by being cancelled."""
        failures = 0
        while True:
            self._wanted.clear()
            good = await self._fetch_once()
            failures = 0 if good else failures + 1
            pause = self._refresh_s if good else min(self._refetch_s, FIRST_RETRY_S * 2 ** min(failures - 1, 20))
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def newer(self) -> bool:
        """Wait for keys that are fetched from now on, or are being so; false at once when it is too soon to ask again."""
        if not self._is_fetching:
            if self._clock() - self._began_at < self._refetch_s:
                return False
            self._wanted.set()
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            await self._fetched.wait()
        finally:
            self._waiting -= 1
        return True

    async def _fetch_once(self) -> bool:
        self._is_fetching = True
        self._began_at = self._clock()
        try:
            keys = await asyncio.to_thread(lambda: read_jwks(self._fetch(), self._algorithms, "auth.jwt.jwks_url"))
            self._keys.swap(keys)
        except (FetchFailed, ConfigError) as fault:
            kept = "the last good keys stay in use" if self._keys.is_loaded else "no token can be verified yet"
            _log.error("keys of tokens: %s; %s", fault, kept)
            self._observe(False)
            return False
        except Exception as error:  # of ours; fetching must go on
            _log.error("keys of tokens could not be fetched", exc_info=error)
            self._observe(False)
            return False
        finally:
            self._is_fetching = False
            self._fetched.set()
            self._fetched = asyncio.Event()
        self._observe(True)
        return True

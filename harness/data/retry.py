"""Patience with servers: which failures pass, and how long to wait for them."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 6  # in a row without a new byte
FIRST_PAUSE_S = 1.0  # then 2, 4, 8, 16
LONGEST_PAUSE_S = 60.0
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Of requests, httpx and httpx2 alike, which huggingface_hub lets through.
PASSING_NAMES = frozenset(
    {"ConnectTimeout", "ReadTimeout", "PoolTimeout", "ReadError", "RemoteProtocolError"}
)
T = TypeVar("T")


class TransferEndedError(OSError):
    """A transfer that ended before its last byte; worth resuming."""


def passes(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in PASSING_STATUS
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror | ConnectionRefusedError):
        return False  # no network or nobody there: say so at once
    if type(error).__name__ == "OfflineModeIsEnabled":  # HF_HUB_OFFLINE, a ConnectionError
        return False
    if type(error).__name__ in PASSING_NAMES:
        return True
    kinds = (TransferEndedError, ConnectionError, TimeoutError, http.client.HTTPException)
    return isinstance(reason, kinds)


def status_of(error: Exception) -> int | None:
    """HTTP status that an error carries (urllib's, or a library's `response`), else None."""
    code = getattr(error, "code", None)
    if not isinstance(code, int):
        code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def pause_s(attempt: int, error: Exception) -> float:
    """Seconds before the next attempt: doubling, or what the server asks for up to a minute."""
    headers = getattr(error, "headers", None) or getattr(
        getattr(error, "response", None), "headers", None
    )
    asked = headers.get("Retry-After") if headers is not None else None
    if isinstance(asked, str) and asked.strip().isdigit():
        return min(float(asked), LONGEST_PAUSE_S)
    return min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S)


def with_patience(act: Callable[[], T], gained: Callable[[], int], say: Callable[[str], None]) -> T:
    """Call `act` until it succeeds, fails for good, or fails ATTEMPTS times without gaining a byte.

    gained   bytes on disk; any growth since the last failure starts the count anew
    """
    attempt, had = 0, gained()
    while True:
        try:
            return act()
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if gained() > had:
                attempt, had = 0, gained()
            if not passes(error) or attempt + 1 >= ATTEMPTS:
                raise
            wait = pause_s(attempt, error)
            attempt += 1
            say(f"{reason_of(error)}; again in {wait:g} s")
            time.sleep(wait)


def reason_of(error: Exception) -> str:
    """One line: "the server answers 503 Service Unavailable", "connection reset", …"""
    status = status_of(error)
    if status is not None:
        return f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = (str(reason) or type(reason).__name__).splitlines()[0]
    return text if len(text) < 200 else text[:200] + "…"

"""Accounts: whose limits requests count against. One account has one identity, however a caller spells it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Account:
    """One key at one address.

    Attributes:
        address: the normalised base URL, or the provider's name if only the provider's SDK knows its address.
        digest: a digest of the key and of whatever else tells accounts at the address apart; it reveals neither.
    """

    address: str
    digest: str


def account_at(provider: str, address: str | None, key: str | None, others: Iterable[tuple[str, str]] = ()) -> Account:
    """Return the account for a base URL, a key, and further `(name, value)` pairs that name an account."""
    place, secrets = _normalised(address) if address else (provider, "")
    identity = repr((key or "", secrets, sorted(others)))
    return Account(place, hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest())


def _normalised(address: str) -> tuple[str, str]:
    """Split a base URL into its normal form and the parts that may hold credentials (user, query)."""
    try:
        parts = urlsplit(address.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # an address that no request can be sent to either
        return address, ""
    if not host:
        return address.rstrip("/"), ""
    scheme = parts.scheme.lower()
    host = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS.get(scheme):
        host = f"{host}:{port}"
    # Servers that answer at both ".../v1" and "..." count both alike.
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{scheme}://{host}{path}", f"{parts.username or ''}:{parts.password or ''}?{parts.query}"

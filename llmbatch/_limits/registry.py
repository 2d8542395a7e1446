"""The process's limiters: one for each account and model, shared by every batch that sends there."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from weakref import WeakValueDictionary

from llmbatch._limits.account import Account
from llmbatch._limits.configured_limits import ConfiguredLimits
from llmbatch._limits.limiter import Limiter

# Limiters of accounts that no batch uses any more, kept for what they have learnt.
MAX_IDLE_LIMITERS = 256


class LimiterRegistry:
    """Finds or makes limiters. A limiter in use is never dropped: it stays here for as long as anyone else holds it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew; in a forked process the parent may have held the lock."""
        self._limiters: WeakValueDictionary[tuple[Account, str], Limiter] = WeakValueDictionary()
        self._accounts: WeakValueDictionary[Account, ConfiguredLimits] = WeakValueDictionary()
        self._recent: OrderedDict[tuple[Account, str], Limiter] = OrderedDict()
        self._lock = threading.Lock()

    def limiter_for(self, account: Account, model: str) -> Limiter:
        """Return the limiter of a model at an account; limits that callers configure hold for the whole account."""
        key = account, model
        with self._lock:
            limiter = self._limiters.get(key)
            if limiter is None:
                limits = self._accounts.get(account) or ConfiguredLimits(time.monotonic())
                self._accounts[account] = limits
                limiter = self._limiters[key] = Limiter(account=limits)
            self._recent[key] = limiter
            self._recent.move_to_end(key)
            if len(self._recent) > MAX_IDLE_LIMITERS:
                self._recent.popitem(last=False)
        return limiter


_registry = LimiterRegistry()
limiter_for = _registry.limiter_for

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.reset)

"""Exceptions that the lowest layers raise; `llmbatch.errors` has them all."""

from __future__ import annotations


class LLMBatchError(Exception):
    """Base of everything that llmbatch raises besides ValueError and TypeError."""


class MissingExtraError(LLMBatchError, ImportError):
    """A package that this function needs is not installed; the message has the command that installs it."""


class BlockingCallError(LLMBatchError, RuntimeError):
    """A blocking function was called from llmbatch's own event loop, which would wait for itself."""

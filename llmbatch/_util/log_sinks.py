"""Where llmbatch's log is shown."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from loguru import logger

from llmbatch._util.batch_log import FIELDS

if TYPE_CHECKING:
    from loguru import Record

_OURS = "llmbatch"
_LOGURUS_OWN = 0  # the sink on stderr that loguru begins with
_sinks: list[int] = []


def show(level: str, *, json: bool) -> None:
    """Show the log from a level on: in `logging` if it has handlers, else on stderr, unless loguru has other sinks."""
    number = _level_number(level)
    logger.enable(_OURS)
    taken = bool(_sinks)
    while _sinks:
        with contextlib.suppress(ValueError):
            logger.remove(_sinks.pop())
    if not taken:
        try:
            logger.remove(_LOGURUS_OWN)
        except ValueError:
            return  # the application has taken it away: it uses loguru
    if logging.getLogger().handlers:
        _sinks.append(logger.add(_ToLogging(), level=0, format="{message}", serialize=json))
        logging.getLogger(_OURS).setLevel(number)
        return
    if sys.stderr is not None:
        _sinks.append(logger.add(sys.stderr, filter=_is_others))
        _sinks.append(logger.add(sys.stderr, level=number, filter=_OURS, serialize=json))


def _level_number(level: str) -> int:
    try:
        return logger.level(level.upper()).no
    except (AttributeError, ValueError):
        raise ValueError(f"level must be DEBUG, INFO, WARNING or ERROR, not {level!r}") from None


def _is_others(record: Record) -> bool:
    return (record["name"] or "").partition(".")[0] != _OURS


class _ToLogging(logging.Handler):
    """Passes loguru's records on, so that none is heard twice or lost."""

    def emit(self, record: logging.LogRecord) -> None:
        named = logging.getLogger(record.name)
        if named.isEnabledFor(record.levelno):
            record.msg = str(record.msg).rstrip("\n")  # serialized lines end with one
            extra = getattr(record, "extra", {})
            for name in FIELDS:
                if name in extra:
                    setattr(record, name, extra[name])
            named.handle(record)

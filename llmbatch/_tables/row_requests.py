"""The rows of a table as requests: templates, images, and rows with missing values, which are not sent."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from llmbatch._request.parsed_request import ParsedRequest, parse_request
from llmbatch._tables.images import image_parts, with_images
from llmbatch._util.plain_values import is_missing, plain
from llmbatch._util.template import RowTemplate, request_template

Row = Mapping[str, Any]


class RowRequests:
    """The requests of a table's rows, in order; iterating makes them.

    Attributes:
        columns: those that requests are made of.
        checked: those that `check` needs.
        missing: number of missing values by column, among the rows that were left out.
    """

    def __init__(
        self,
        template: RowTemplate,
        names: Sequence[str],
        *,
        images: str | None,
        skips: bool,
        custom_ids: Sequence[str] | None = None,
    ) -> None:
        self._by, self._images = request_template(template), images
        self._skips, self._ids = skips, custom_ids
        # "author.name" is a field of the column author, unless there is a column of that name.
        self._fields = {
            name: name.split(".") for name in self._by.columns if name not in names and name.partition(".")[0] in names
        }
        wanted = [self._fields.get(name, [name])[0] for name in self._by.columns]
        needed = [*wanted, *([] if images is None else [images])]
        if unknown := [name for name in dict.fromkeys(needed) if name not in names]:
            absent, known = (", ".join(map(repr, some)) for some in (unknown, _shown(names)))
            raise ValueError(f"there is no column {absent}. The table has {known or 'no columns'}.")
        if twice := [name for name in needed if list(names).count(name) > 1]:
            raise ValueError(f"there are several columns {twice[0]!r}. Rename them, so that each has its own name.")
        # A template needs its columns, a function the whole row.
        self.columns = list(dict.fromkeys(needed if self._by.columns else names))
        self._needed = needed
        self.checked = list(dict.fromkeys(needed)) or list(names)[:1]
        self._positions = array("q")
        self.missing: Counter[str] = Counter()

    def check(self, rows: Iterable[Row]) -> int:
        """Read the `checked` columns of all rows once, and return how many requests they are.

        Raises ValueError for a row that the template does not fit, and for missing values unless they are skipped. A
        function is not called.
        """
        count = 0
        for at, row in enumerate(rows):
            if (absent := self._missing(row)) is not None:
                self._refuse(at, absent)
                continue
            if self._by.columns:
                self._request(at, row, whole=False)
            count += 1
        return count

    def position(self, index: int) -> int:
        """Return the index in the table of a request."""
        known = len(self._positions)
        if index < known:
            return self._positions[index]
        # Of a row that was not reached before the deadline.
        return index - known + (self._positions[-1] + 1 if known else 0)

    def of(self, rows: Iterable[Row]) -> Iterator[ParsedRequest]:
        """Yield the requests of the rows."""
        self._positions, self.missing = array("q"), Counter()
        for at, row in enumerate(rows):
            if (absent := self._missing(row)) is not None:
                self._refuse(at, absent)
                continue
            request = self._request(at, row, whole=True)
            if request is None:
                self.missing["the function's result"] += 1
                continue
            self._positions.append(at)
            yield request

    def _refuse(self, at: int, name: str) -> None:
        if not self._skips:
            raise ValueError(
                f"column {name!r} has a missing value (row {at}). Drop such rows or fill them, or pass missing='skip' "
                "to leave their answers missing."
            )
        self.missing[name] += 1

    def _missing(self, row: Row) -> str | None:
        absent = next((name for name in self._needed if _is_missing(row[name])), None)
        return absent or next((name for name, path in self._fields.items() if _is_missing(_field(row, path))), None)

    def _request(self, at: int, row: Row, *, whole: bool) -> ParsedRequest | None:
        """Return a row's request, None if there is none; without `whole`, no file of an image is read."""
        try:
            fields = {name: _field(row, path) for name, path in self._fields.items()}
            made = self._by.request({**row, **fields} if fields else row) if whole or self._by.columns else None
        except (ValueError, TypeError) as exc:
            if not self._by.columns:  # the caller's own function
                raise
            raise ValueError(f"the template does not fit row {at}: {exc}") from None
        if made is None or _is_missing(made):
            return None
        parsed = parse_request(made)
        if self._images is not None and whole and parsed.problem is None:
            try:
                parsed.messages = with_images(parsed.messages, image_parts(plain(row[self._images])))
            except (ValueError, TypeError, OSError) as exc:
                why = exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else exc
                parsed = ParsedRequest(problem=f"column {self._images!r}: {why}")
        if self._ids is not None:
            if at >= len(self._ids):
                raise ValueError(
                    f"custom_ids has {len(self._ids)} ids, fewer than the table has rows. Pass one for each row."
                )
            parsed.custom_id = self._ids[at]
        return parsed

    def missing_text(self, rows: int) -> str:
        """Return which rows were left out, in a line; empty if none was."""
        count = sum(self.missing.values())
        where = ", ".join(f"{name!r}: {number:,}" for name, number in self.missing.items())
        return f"rows with missing values were not sent: {count:,} of {rows:,} ({where})" if count else ""


def _field(row: Row, path: Sequence[str]) -> Any:
    """Return the value of a field of a struct, None if there is none."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shown(names: Sequence[str]) -> list[str]:
    return [*names[:20], *(["…"] if len(names) > 20 else [])]  # noqa: PLR2004 - columns that an error lists


def _is_missing(value: Any) -> bool:
    if hasattr(value, "dtype") and not getattr(value, "ndim", 1):
        value = plain(value)  # a scalar of numpy
    return is_missing(value) or (isinstance(value, Decimal) and value.is_nan())

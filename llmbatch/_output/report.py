"""A batch's report: one HTML file with its plots, which needs no network. Needs the `report` extra."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import Any

from llmbatch._output.html_table import asked_model, chosen, record, short
from llmbatch._output.run_info import RunInfo
from llmbatch._output.stats import RunStats
from llmbatch._rows.finish_reasons import is_truncated
from llmbatch._rows.row import Row
from llmbatch._util.extras import extra

_SAMPLES, _FAILED, _NAMED, _EXAMPLES, _LONGEST = 500, 150, 10, 3, 600
_BARS = 60
# What plots are drawn with, and what the page puts in its place: its own text and colours, in light and dark.
_COLOURS = {"#010101": "currentColor", "#020202": "var(--good)", "#030303": "var(--bad)", "#040404": "var(--again)",
            "#050505": "var(--calm)"}  # fmt: skip
_INK, _GOOD, _BAD, _AGAIN, _CALM = _COLOURS


def report_html(
    rows: Sequence[Row], *, title: str, elapsed: float, limits: str, prompts: Iterable[Any] | None, run: RunInfo
) -> str:
    """Return the page. `elapsed` is in seconds, 0 if unknown; `limits` is a line; `prompts` has one per row.

    Raises ImportError without matplotlib or jinja2, and ValueError when there are not as many prompts as rows.
    """
    jinja2 = extra("jinja2", "reports", "report")
    asked = [""] * len(rows) if prompts is None else [_prompt(item) for item in prompts]
    if len(asked) != len(rows):
        raise ValueError(f"there are {len(asked)} prompts for {len(rows)} rows. Pass the list that was sent.")

    def shown(places: Iterable[int]) -> list[dict[str, Any]]:
        return [record(at, rows[at], _LONGEST) | {"prompt": short(asked[at], _LONGEST)} for at in places]

    def most(name: str) -> list[dict[str, Any]]:
        known = [at for at, row in enumerate(rows) if row.get(name)]
        return shown(nlargest(_NAMED, known, key=lambda at: rows[at][name]))  # type: ignore[literal-required]

    row_stats = RunStats(rows)
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return str(page.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        title=title,
        row_stats=row_stats,
        elapsed=elapsed,
        limits=limits,
        run=run,
        began=_began(rows, run),
        notes=run.lines(len(rows), elapsed).strip().splitlines(),
        with_prompts=prompts is not None,
        over_time=_over_time(rows),
        histogram=_histogram(row_stats),
        models=_models(rows),
        examples=_failure_examples(rows),
        cut=shown(islice((at for at, row in enumerate(rows) if is_truncated(row)), _NAMED)),
        slowest=most("elapsed"),
        dearest=most("cost"),
        samples=shown(chosen(rows, _FAILED, _SAMPLES, max(1, len(rows) // (_SAMPLES - _FAILED)))),
    ))  # fmt: skip


def _prompt(item: Any) -> str:
    """Return the text of a request: its prompt, or its messages with their roles."""
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        item = item.get("prompt") or item.get("messages") or (item.get("body") or {}).get("messages")
        return _prompt(item or "")
    said = ((message.get("role"), message.get("content")) for message in item if isinstance(message, Mapping))
    return "\n".join(f"{role}: {content}" for role, content in said)


def _models(rows: Iterable[Row]) -> dict[str, RunStats]:
    """Return the statistics of each model."""
    sums: defaultdict[str, RunStats] = defaultdict(RunStats)
    for row in rows:
        sums[asked_model(row)].add(row)
    return sums


def _failure_examples(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Return the first few messages of each type of failure, with the index of the first row that has each."""
    found: dict[str, dict[str, int]] = {}
    for at, row in enumerate(rows):
        if "error" in row:
            messages = found.setdefault(row["error_details"]["type"], {})
            if len(messages) < _EXAMPLES:
                messages.setdefault(short(row["error"], _LONGEST), at)
    return found


def _over_time(rows: Sequence[Row]) -> str:
    """Plot rows and requests per second, and rows in flight and waiting; `""` if no row has a time.

    A row ends `waited` and `elapsed` seconds after its `started_at`; without one (batch jobs) at the provider's
    `created`. A row without a time is placed at the end of the last row before it that has one.
    """
    numpy = extra("numpy", "reports", "report")
    known = [end for row in rows if (end := _end(row)) is not None]
    if not known:
        return ""
    at, times = known[0], []
    for row in rows:
        at = _end(row) or at
        again = max(0, row.get("attempts", 1) - row.get("asks", 1))
        times.append((at, row.get("elapsed") or 0.0, row.get("waited") or 0.0, "error" in row, again))
    ends, took, waited, failed, again = map(numpy.array, zip(*times, strict=True))
    begun = ends - took
    zero = numpy.floor((begun - waited).min())
    begun, ends = begun - zero, ends - zero
    width = max(1.0, numpy.ceil(ends.max() / _BARS))
    edges = numpy.arange(0, ends.max() + 2 * width, width)
    figure, (above, below) = _figure(2)
    kinds = [
        (ends, ~failed / width, _GOOD, "answered"),
        (ends, failed / width, _BAD, "failed"),
        (begun, again / width, _AGAIN, "retried"),
    ]
    when, weights, colours, labels = zip(*(kind for kind in kinds if kind[1].any()), strict=True)
    above.hist(when, edges, weights=weights, stacked=True, color=colours, label=labels)
    above.set_ylabel("per second")
    middles = edges[:-1] + width / 2
    for starts, stops, colour, label in ((begun, ends, _GOOD, "in flight"), (begun - waited, begun, _CALM, "waiting")):
        there = numpy.searchsorted(numpy.sort(starts), middles) - numpy.searchsorted(numpy.sort(stops), middles)
        below.plot(middles, there, color=colour, label=label)
    below.set_ylabel("rows")
    below.set_xlabel("seconds")
    return _svg(figure)


def _end(row: Row) -> float | None:
    """Return when a row ended, in seconds since 1970; None if unknown."""
    started_at = row.get("started_at")
    if started_at is None:
        return row.get("created") or None
    return datetime.fromisoformat(started_at).timestamp() + (row.get("waited") or 0.0) + (row.get("elapsed") or 0.0)


def _began(rows: Iterable[Row], run: RunInfo) -> str:
    """Return when the run, or its first row, began (UTC); "" if unknown."""
    first = run.started_at or min((row["started_at"] for row in rows if row.get("started_at")), default="")  # type: ignore[type-var]
    return f"{first[:19].replace('T', ' ')} UTC" if first else ""


def _histogram(row_stats: RunStats) -> str:
    """Plot the latency with its percentiles; the last bar has the outliers."""
    found = row_stats.latency
    if found is None:
        return ""
    figure, (axes,) = _figure(1)
    longest = min(found["max"], 2 * found["p99"])
    axes.hist([min(value, longest) for value in row_stats.seconds], _BARS, range=(0, longest), color=_GOOD)
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        axes.axvline(found[name], color=_INK, linestyle=style, linewidth=1, label=f"{name} {found[name]:.2f} s")
    axes.set_xlabel("seconds" if longest == found["max"] else f"seconds (the last bar: up to {found['max']:.1f})")
    axes.set_ylabel("answers")
    return _svg(figure)


def _figure(plots: int) -> tuple[Any, Any]:
    figures = extra("matplotlib.figure", "reports", "report")
    figure = figures.Figure((9, 1 + 1.9 * plots), layout="constrained")
    return figure, figure.subplots(plots, sharex=True, squeeze=False)[:, 0]


def _svg(figure: Any) -> str:
    """Return the figure as SVG in the page's colours and font."""
    matplotlib = extra("matplotlib", "reports", "report")
    above = {"loc": "lower right", "bbox_to_anchor": (1, 0.97), "ncols": 4}
    for axes in figure.axes:
        axes.legend(**above, frameon=False, labelcolor=_INK, fontsize="small")
        axes.tick_params(colors=_INK, labelsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        axes.xaxis.label.set_color(_INK)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmbatch"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    _, tag, drawn = file.getvalue().partition("<svg")
    for colour, put in _COLOURS.items():
        drawn = drawn.replace(colour, put)
    return tag + drawn

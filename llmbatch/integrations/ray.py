"""Tables too large for one machine: the same engine inside each worker of Ray Data, Dask or Spark.

    import ray
    from llmbatch.integrations.ray import complete_dataset

    reviews = ray.data.read_parquet("reviews/")
    answers = complete_dataset(reviews, "Sentiment of: {text}", "gpt-4o-mini", actors=4, requests_per_minute=6000)
    answers.write_parquet("answers/")

Limits and budget are the account's: each worker gets an equal share, so that together they never exceed them. Keys come
from the workers' environment. Needs the `ray` extra; `Completions` alone needs pandas only.
"""

from __future__ import annotations

import json
import math
import threading
import uuid
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbatch._batch.checkpoint import output_lines
from llmbatch._batch.prepare import chat_batch
from llmbatch._output.dataframe import rows_frame
from llmbatch._output.jsonl import row_from_line, written_row
from llmbatch._request.argument_names import check_argument_names
from llmbatch._request.budget import Budget
from llmbatch._request.parsed_request import Plans, parse_request
from llmbatch._request.plans import ChatPlan, plan_chat
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, error_row
from llmbatch._util.background_loop import in_background
from llmbatch._util.checks import check_number
from llmbatch._util.extras import extra
from llmbatch._util.identity import custom_id_for
from llmbatch._util.template import RowTemplate, request_template
from llmbatch.options import OWN_OPTIONS

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = ["Completions", "complete_dataset"]


class Completions:
    """A function that adds a column of answers to a DataFrame, and columns with the details of each answer.

    Picklable, for `Dataset.map_batches` (as a class, see `complete_dataset`), Dask's `map_partitions` and Spark's
    `mapInPandas` (as an object). No row fails the job: errors are in a column.

    Args:
        template: the prompt over the table's columns ("Summarise: {text}"), or a function of a row (a dict) that gives
            its request. A row without a value in a column of the prompt is an error.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        output: the answers' column. The others are `OUTPUT_error`, `_model`, `_prompt_tokens`, `_completion_tokens`,
            `_total_tokens`, `_cost` (USD, NaN where unknown), `_attempts`, `_elapsed`, `_waited` (seconds),
            `_finish_reason`, and the fields of a pydantic `response_format`.
        system: a system message for every row.
        workers: how many processes work on the table; each takes that part of the limits and of `max_cost`.
        requests_per_minute, tokens_per_minute: of the account, for all workers together.
        max_cost: spending cap in USD, for all of Ray's actors or for one process. An object with it cannot be pickled:
            each of Spark's and Dask's processes would begin its share anew with each partition. Nor does Ray start an
            actor anew that has crashed.
        checkpoint: a directory that all workers reach; answers found there are not asked for again.
        id_column: tells rows apart that ask the same, so that each keeps its own answer in the checkpoint.
        kwargs: those of `create_chat_completions_batch`; `max_workers` is per worker.

    Example:
        add_answers = Completions("Sentiment of: {text}", "gpt-4o-mini", workers=4, requests_per_minute=6000)
        dask_frame.map_partitions(add_answers, meta=add_answers.meta(dask_frame._meta))    # Dask
        spark_frame.mapInPandas(lambda frames: map(add_answers, frames), schema)           # Spark
    """

    def __init__(
        self,
        template: RowTemplate,
        model: str | None = None,
        *,
        output: str = "answer",
        system: str | None = None,
        workers: int = 1,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_cost: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        id_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("workers", workers, "it is the number of processes that share the limits", whole=True, least=1)
        check_argument_names(kwargs, OWN_OPTIONS, frozenset())
        self._asking, self._output, self._id_column = request_template(template), output, id_column
        self._arguments = {"model": model, "system": system, "progress": False, **kwargs}
        shares = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        self._arguments |= {name: limit / workers for name, limit in shares.items() if limit is not None}
        if max_cost is not None:
            self._arguments["max_cost"] = max_cost / workers
        self._budget = Budget(self._arguments.get("max_cost"))
        self._checkpoint = checkpoint
        self._name = uuid.uuid4().hex
        self._warned = False
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._journal: _Journal | None = None
        self._plans: Plans[ChatPlan] | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._budget.cap < math.inf:
            raise ValueError(
                "max_cost cannot be enforced if each partition gets a copy of this object (Spark, Dask's processes). "
                "Leave it out, or use complete_dataset (Ray) or Dask's threads."
            )
        if self._checkpoint is None and not self._warned:
            self._warned = True
            _warn_without_checkpoint(stacklevel=3)
        return {name: value for name, value in vars(self).items() if name not in {"_lock", "_journal", "_plans"}}

    def __dask_tokenize__(self) -> tuple[str, str]:
        """Dask's name for it; Dask pickles it otherwise, on its threads too."""
        return type(self).__qualname__, self._name

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with the columns added; its index and its own columns are kept.

        Raises ValueError for columns that are not there, and what `create_chat_completions_batch` raises for misuse.
        """
        self.meta(frame)  # a name that is taken raises before anything is sent
        return self._joined(frame, self._rows(frame))

    def meta(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The empty frame that a call with such a frame would return rows of, for Dask's `meta`."""
        return self._joined(frame.iloc[:0], [])

    def _joined(self, frame: pd.DataFrame, rows: list[Row]) -> pd.DataFrame:
        for row in rows:
            row.pop("metadata", None)  # the columns of a table are the same for all its parts
        added = rows_frame(rows, self._arguments.get("response_format"), {}).drop(columns="custom_id")
        added.columns = [self._output if name == "text" else f"{self._output}_{name}" for name in added.columns]
        if taken := [name for name in added.columns if name in frame.columns]:
            raise ValueError(
                f"the table already has a column {taken[0]!r}. Choose another output= than {self._output!r}."
            )
        return frame.assign(**{name: added[name].set_axis(frame.index) for name in added.columns})

    def _rows(self, frame: pd.DataFrame) -> list[Row]:
        """One row for each of the frame's, from the checkpoint, from the model, or refused."""
        columns = [*self._asking.columns, *([self._id_column] if self._id_column else [])]
        if absent := [name for name in columns if name not in frame.columns]:
            named, known = (", ".join(map(repr, names)) for names in (absent, frame.columns))
            raise ValueError(f"there is no column {named}. The table has {known}.")
        rows: dict[int, Row] = {}
        requests: dict[int, Any] = {}
        keys: dict[int, str] = {}
        ids = frame[self._id_column].tolist() if self._id_column else [None] * len(frame)
        empty = {name: frame[name].isna().tolist() for name in self._asking.columns}
        for at, row in enumerate((frame[columns] if self._asking.columns else frame).to_dict("records")):
            absent = [name for name in self._asking.columns if empty[name][at]]
            if absent:
                problem, model = f"column {absent[0]!r} has no value", self._arguments["model"]
                rows[at] = error_row(type=FailureType.INVALID_ROW, message=problem, model=model, custom_id=f"row-{at}")
                continue
            request = self._asking.request(row)
            if self._checkpoint is not None:
                keys[at] = self._key(request, ids[at])
                if found := self._known().take(keys[at]):
                    rows[at] = found
                    continue
            requests[at] = request
        rows |= self._answers(requests, keys)
        return [rows[at] for at in range(len(frame))]

    def _answers(self, requests: dict[int, Any], keys: dict[int, str]) -> dict[int, Row]:
        if not requests:
            return {}
        positions = list(requests)
        arguments = dict(self._arguments)
        if keys:
            arguments["on_result"] = lambda index, row: self._known().append(keys[positions[index]], row)
        batch = chat_batch(list(requests.values()), shared_budget=self._budget, **arguments)
        return dict(zip(positions, in_background(batch.collect()), strict=True))

    def _known(self) -> _Journal:
        with self._lock:
            if self._journal is None:
                assert self._checkpoint is not None  # noqa: S101 - the callers have looked
                self._journal = _Journal(self._checkpoint)
            return self._journal

    def _key(self, request: Any, row_id: Any) -> str:
        """What an answer is kept under: everything that it depends on, and the row's own id."""
        if self._plans is None:
            self._plans = Plans(self._arguments, lambda arguments: plan_chat(**arguments))
        asked = parse_request(request)
        try:
            request_id = custom_id_for(self._plans.of(asked).request(asked.messages))
        except ValueError:  # an error row, which is not kept
            return ""
        return request_id if row_id is None else f"{request_id} {row_id}"


def complete_dataset(
    dataset: Any,
    template: RowTemplate,
    model: str | None = None,
    *,
    actors: int = 2,
    batch_size: int = 1024,
    num_cpus: float = 1.0,
    **kwargs: Any,
) -> Any:
    """Return a Ray Dataset with a column of answers: `Completions` in several actors that share the account's limits.

    Args:
        dataset: a `ray.data.Dataset`.
        template: as in `Completions`.
        model: as in `Completions`.
        actors: worker processes, a fixed number, since the limits are divided by it.
        batch_size: rows that an actor answers at a time; many times its `max_workers`, or it waits for the last ones.
        num_cpus: CPUs that Ray reserves for an actor. One actor sends some 100 requests a second.
        kwargs: those of `Completions` and of `create_chat_completions_batch`.

    Returns the lazy Dataset. Raises ImportError without ray.

    Example:
        complete_dataset(dataset, "Sentiment of: {text}", actors=4, max_cost=20, checkpoint="/shared/answers")
    """
    ray_data = extra("ray.data", "Ray datasets", "ray")
    Completions(template, model, workers=actors, **kwargs)  # so that misuse is raised here, and not in an actor
    if kwargs.get("checkpoint") is None:
        _warn_without_checkpoint(stacklevel=3)
    return dataset.map_batches(
        Completions,
        fn_constructor_args=(template, model),
        fn_constructor_kwargs={"workers": actors, **kwargs},
        batch_size=batch_size,
        batch_format="pandas",
        zero_copy_batch=False,
        compute=ray_data.ActorPoolStrategy(size=actors),
        num_cpus=num_cpus,
        **({} if kwargs.get("max_cost") is None else {"max_restarts": 0}),  # it would begin its share of max_cost anew
    )


def _warn_without_checkpoint(stacklevel: int) -> None:
    warnings.warn(
        "the rows of a worker that is killed are sent again, and paid twice. Pass checkpoint=, a directory that all "
        "workers reach, to keep finished answers.",
        stacklevel=stacklevel,
    )


class _Journal:
    """A directory of finished rows that many workers share, as lines of a checkpoint.

    Each appends to a file of its own and knows all that came before it was opened. No locks are needed, so that any
    shared file system will do.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        self._places: defaultdict[str, list[tuple[Path, int]]] = defaultdict(list)
        for path in sorted(place.glob("*.jsonl")):
            with path.open("rb") as file:
                for offset, _, line in output_lines(file, path):
                    if line is not None:  # else torn by the end of its worker
                        self._places[line["llmbatch"]["request"]].append((path, offset))
        self._own = place / f"{uuid.uuid4().hex}.jsonl"

    def take(self, key: str) -> Row | None:
        """An answer under this key, each one once."""
        places = self._places.get(key)
        if not places:
            return None
        path, offset = places.pop()
        with path.open("rb") as file:
            file.seek(offset)
            return row_from_line(json.loads(file.readline()))

    def append(self, key: str, row: Row) -> None:
        """Keep a finished row; failed ones are not kept, so that they are sent again."""
        if "error" in row:
            return
        with self._own.open("ab") as file:
            file.write(written_row(row, request=key))

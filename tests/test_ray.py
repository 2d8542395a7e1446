"""Tables in several workers: `Completions` by itself, in Ray's actors, and in Dask's and Spark's partitions."""

from __future__ import annotations

import contextlib
import math
import pickle
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from llmbatch import complete_table
from llmbatch.integrations.ray import Completions, complete_dataset
from tests.server import Response, Server, answer_to, server_process

if TYPE_CHECKING:
    from collections.abc import Iterator

pd = pytest.importorskip("pandas")
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore:the rows of a worker that is killed")]

ADDED = ["answer", "answer_error", "answer_finish_reason", "answer_model", "answer_prompt_tokens",
         "answer_completion_tokens", "answer_total_tokens", "answer_cost", "answer_attempts", "answer_elapsed",
         "answer_waited"]  # fmt: skip


class Verdict(BaseModel):
    """A shape for answers."""

    good: bool


def options(server: Any, **more: Any) -> dict[str, Any]:
    return {"model": "openai/test-model", "api_base": server.api_base, "api_key": "sk-test", **more}


def test_a_table_gets_columns_of_answers_and_errors(server: Server) -> None:
    """Rows that fail or have no value are errors in their row; the table's own columns and index are kept."""
    server.handler = lambda request: Response(400) if request.text == "Say bad" else None
    frame = pd.DataFrame({"text": ["a", None, "bad"]}, index=[3, 4, 5])
    made = pickle.loads(pickle.dumps(Completions("Say {text}", **options(server, retries=0))))(frame)  # noqa: S301 - our own
    assert list(made.columns) == ["text", *ADDED]
    assert made.index.tolist() == [3, 4, 5]
    assert made["answer"].tolist()[0] == answer_to("Say a")
    assert made["answer"].isna().tolist() == [False, True, True]
    assert made["answer_error"][4] == "InvalidRow: column 'text' has no value"
    assert made["answer_error"][5].startswith("BadRequestError")
    assert list(frame.columns) == ["text"], "the frame given is not changed"


def test_completions_without_checkpoint_warn_once_when_sent_to_workers(tmp_path: Path) -> None:
    """A worker that is killed runs its rows again: the warning names `checkpoint=`, and is gone with it."""
    add = Completions("Say {text}", "gpt-4o-mini", api_key="sk-test")
    with pytest.warns(UserWarning, match="checkpoint="):
        pickle.dumps(add)
    kept = Completions("Say {text}", "gpt-4o-mini", api_key="sk-test", checkpoint=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.dumps(add)
        pickle.dumps(kept)


def test_the_empty_frame_has_the_columns_of_a_full_one(server: Server) -> None:
    """`meta` tells Dask the types without a request."""
    frame = pd.DataFrame({"text": ["a"]})
    add = Completions("{text}", output="reply", response_format=Verdict, **options(server, retries=0))
    meta = add.meta(frame)
    assert not server.requests
    assert list(meta.columns) == list(add(frame).columns)
    assert {"reply", "reply_good", "reply_error"} < set(meta.columns)


def test_a_function_of_a_row_gives_its_request(server: Server, tmp_path: Path) -> None:
    """With parameters from the table; what it answers is found again in the checkpoint, and a bad one is an error."""
    frame = pd.DataFrame({"q": ["a", "b", math.nan], "model": ["openai/one", "openai/two", "x"]}, index=[3, 4, 5])
    for sent in (2, 0):
        server.reset()
        add = Completions(
            lambda row: {"prompt": row["q"], "model": row["model"], "metadata": {"from": "a table"}},
            checkpoint=tmp_path, **options(server),
        )  # fmt: skip
        made = add(frame)
        assert made["answer"].tolist()[:2] == [answer_to("a"), answer_to("b")]
        assert made["answer_error"][5] == "InvalidRow: prompt is missing"
        assert list(made.columns) == ["q", "model", *ADDED] == list(add.meta(frame).columns)
        assert {request.json["model"] for request in server.requests} == ({"one", "two"} if sent else set())


def test_workers_share_limits_and_budget_evenly(server: Server) -> None:
    """What each worker may do adds up to what was given once; a worker's share of max_cost holds over its batches."""
    add = Completions("{text}", workers=4, requests_per_minute=6000, tokens_per_minute=80_000, api_key="sk-test")
    assert add._arguments["requests_per_minute"] == 1500
    assert add._arguments["tokens_per_minute"] == 20_000
    add = Completions("{text}", "gpt-4o-mini", workers=2, max_cost=0.0012, api_base=server.api_base, api_key="sk-test")
    frame = pd.DataFrame({"text": ["x" * 500] * 3})
    made = [add(frame) for _ in range(8)]
    assert made[0]["answer_error"].isna().all()
    assert made[-1]["answer_error"].str.startswith("BudgetExceeded").all()
    assert sum(part["answer_cost"].sum() for part in made) <= 0.0006


def test_a_timeout_counts_against_the_share(server: Server) -> None:
    """The provider may have charged for it, so that the next batches of the worker may spend less."""
    server.handler = lambda request: Response(200, delay=60)
    given = {"max_cost": 0.0004, "timeout": 0.3, "retries": 0, "max_tokens": 200, "api_key": "sk-test"}
    add = Completions("{text}", "gpt-4o-mini", api_base=server.api_base, **given)
    frame = pd.DataFrame({"text": ["x"] * 5})
    made = [add(frame) for _ in range(3)]
    assert made[0]["answer_error"].str.startswith("Timeout").any()
    assert len(server.requests) * 200 * 0.6e-6 <= 0.0004
    assert made[-1]["answer_error"].str.startswith("BudgetExceeded").all()


def test_a_budget_is_not_copied_to_each_partition(server: Server) -> None:
    """Spark and Dask's processes pickle the object for each of them; threads share it, at the same time too."""
    frame = pd.DataFrame({"text": ["x" * 500] * 6})
    add = Completions("{text}", "gpt-4o-mini", max_cost=0.0006, api_base=server.api_base, api_key="sk-test")
    with pytest.raises(ValueError, match="Leave it out"):
        pickle.dumps(add)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(add, [frame] * 4))
    assert 0 < sum(part["answer_cost"].sum() for part in made) <= 0.0006
    server.reset()
    dask_frame = pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=3)
    add = Completions("{text}", "gpt-4o-mini", max_cost=0.0006, api_base=server.api_base, api_key="sk-test")
    made = dask_frame.map_partitions(add, meta=add.meta(dask_frame._meta)).compute()
    assert 0 < made["answer_cost"].sum() <= 0.0006


def test_misuse_is_told_at_once(server: Server) -> None:
    """A table without the column, a taken name and a wrong number of workers are errors with their mend."""
    frame = pd.DataFrame({"text": ["a"]})
    with pytest.raises(ValueError, match=r"no column 'txt'\. The table has 'text'"):
        Completions("{txt}", **options(server))(frame)
    with pytest.raises(ValueError, match="already has a column 'text'"):
        Completions("{text}", output="text", **options(server))(frame)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        Completions("{text}", workers=0)
    assert not server.requests


def test_answers_in_the_checkpoint_are_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    """A new worker knows what others have finished, however the rows are cut into batches; failures are sent again."""
    server.handler = lambda request: Response(400) if request.text == "b" else None
    frame = pd.DataFrame({"text": ["a", "b", "c", "d"]})
    given = options(server, retries=0, checkpoint=tmp_path)
    for part in (frame[:3], frame[3:]):
        Completions("{text}", **given)(part)
    torn = next(tmp_path.glob("*.jsonl"))
    torn.write_bytes(torn.read_bytes() + b'{"custom_id": "torn')
    server.handler = None
    server.reset()
    made = Completions("{text}", **given)(frame[::-1])
    assert [request.text for request in server.requests] == ["b"]
    assert made["answer"].to_dict() == {i: answer_to(text) for i, text in enumerate("abcd")}
    assert Completions("{text}", **given, seed=1)(frame)["answer_error"].isna().all()
    assert len(server.requests) == 5, "other parameters are another request"


def test_rows_that_ask_the_same_keep_their_own_answers(server: Server, tmp_path: Path) -> None:
    """With an id column each row's answer is its own also after a restart."""
    frame = pd.DataFrame({"text": ["same"] * 3, "id": [1, 2, 3]})
    given = options(server, checkpoint=tmp_path, id_column="id")
    Completions("{text}", **given)(frame)
    assert len(server.requests) == 3
    Completions("{text}", **given)(frame[1:])
    Completions("{text}", **given)(frame.assign(id=[1, 2, 4]))
    assert len(server.requests) == 4


def test_dask_takes_it_for_its_partitions(server: Server) -> None:
    """The example of the documentation, on Dask's threads: one process, so one worker."""
    dask_frame = pytest.importorskip("dask.dataframe")
    frame = dask_frame.from_pandas(pd.DataFrame({"text": [f"t{i}" for i in range(40)]}), npartitions=4)
    add_answers = Completions("{text}", **options(server))
    made = frame.map_partitions(add_answers, meta=add_answers.meta(frame._meta)).compute()
    assert made["answer"].tolist() == [answer_to(f"t{i}") for i in range(40)]
    assert len(server.requests) == 40


@pytest.mark.filterwarnings("ignore")  # Spark's own
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_takes_it_for_its_partitions(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the documentation, on a local Spark with two Python workers."""
    pyspark = pytest.importorskip("pyspark")
    pyarrow = pytest.importorskip("pyarrow")
    from pyspark.sql.pandas.types import from_arrow_schema

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = pyspark.sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = spark.createDataFrame(pd.DataFrame({"text": [f"t{i}" for i in range(40)]})).repartition(2)
        add_answers = Completions("{text}", workers=2, requests_per_minute=6000, **options(server))
        schema = pyarrow.Schema.from_pandas(add_answers.meta(frame.limit(0).toPandas()), preserve_index=False)
        made = frame.mapInPandas(lambda frames: map(add_answers, frames), from_arrow_schema(schema)).toPandas()
        kinds = from_arrow_schema(pyarrow.schema([("text", "string"), ("answer", "string")]))
        given = options(server)
        whole = frame.mapInPandas(lambda frames: (complete_table(part, "{text}", **given) for part in frames), kinds)
        by_table = whole.toPandas()
    finally:
        spark.stop()
    for answers in (made, by_table):
        assert dict(zip(answers["text"], answers["answer"], strict=True)) == {
            f"t{i}": answer_to(f"t{i}") for i in range(40)
        }
    assert len(server.requests) == 80


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Ray's own function needs it."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r"llmbatch\[ray\]"):
        complete_dataset(None, "{text}")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local Ray with room for the read task beside two actors."""
    ray = pytest.importorskip("ray")
    path = str(Path(__file__).parent.parent)
    with contextlib.ExitStack() as stack:
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error",
                 runtime_env={"env_vars": {"PYTHONPATH": path}})  # fmt: skip
        stack.callback(ray.shutdown)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_actors_answer_every_row_once_within_one_limit(ray: Any, tmp_path: Path) -> None:
    """None lost, none twice, none refused at the given limit; a later worker takes every answer from the checkpoint."""
    count, per_minute = 300, 3000
    given = {"requests_per_minute": per_minute, "actors": 2, "batch_size": 50, "checkpoint": str(tmp_path)}
    given |= {"max_cost": 2.0, "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    with server_process(rpm=per_minute, burst=0.5, latency=0.05) as server:
        rows = ray.data.from_items([{"id": i, "text": f"question {i}"} for i in range(count)], override_num_blocks=6)

        answers = complete_dataset(rows, "{text}", **options(server), **given).take_all()
        made = sorted(answers, key=lambda row: row["id"])
        stats = server.stats()
        assert [row["answer"] for row in made] == [answer_to(f"question {i}") for i in range(count)]
        assert not [row["answer_error"] for row in made if isinstance(row["answer_error"], str)]  # None, or pandas' NA
        assert (stats["ok"], stats["duplicates"], stats["limited"]) == (count, 0, 0)
        assert sum(row["answer_total_tokens"] for row in made) == stats["tokens"]
        assert sum(row["answer_cost"] for row in made) == pytest.approx(stats["tokens"] * 1e-6)
        assert len(list(tmp_path.iterdir())) == 2, "both actors worked"
        later = Completions("{text}", checkpoint=str(tmp_path), **options(server))
        again = later(pd.DataFrame({"text": [f"question {i}" for i in range(count)]}))
        assert again["answer"].tolist() == [row["answer"] for row in made]
        assert server.stats()["ok"] == count


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("form", ["numpy", "pandas", "pyarrow"])
def test_complete_table_works_in_rays_batches(ray: Any, form: str) -> None:
    """In each form in which Ray passes a batch."""
    with server_process() as server:
        rows = ray.data.from_items([{"id": i, "text": f"t{i}"} for i in range(20)])
        done = rows.map_batches(complete_table, fn_args=("{text}",), fn_kwargs=options(server), batch_format=form)
        answers = {row["text"]: row["answer"] for row in done.take_all()}
    assert answers == {f"t{i}": answer_to(f"t{i}") for i in range(20)}

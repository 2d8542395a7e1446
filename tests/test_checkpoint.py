"""What is done is kept: through kill -9, a torn line, a full disk, another order of rows, another process."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, field_validator
from pydantic.json_schema import GenerateJsonSchema

import llmbatch
from llmbatch._batch import checkpoint
from llmbatch._batch.checkpoint import Checkpoint
from llmbatch._util import identity
from tests.replies import said
from tests.server import Response, answer_to, vector_for
from tests.talk import KEY, answered, batch, chats, lines, place, question, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server import Server
    from tests.warm import Warm

RUN = """
import sys, llmbatch
from tests.talk import batch, chats
base, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = batch(base, (chat for chat in chats(count)), max_workers=8, checkpoint=path)
print(len(rows.failed), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.mark.processes
def test_kills_lose_nothing_and_send_at_most_what_was_in_flight_twice(warm: Warm, server: Server, path: Path) -> None:
    """A run killed with -9 twice and started again: every row once in the file, few sent twice."""
    server.set(latency=0.02)
    count, kills = 240, 2
    for turn in range(kills):
        with warm.script(RUN, server.api_base, str(path), str(count)) as process:
            goal = (turn + 1) * 60
            until(process, lambda: path.exists() and path.read_bytes().count(b"\n") >= goal)  # noqa: B023 - at once
            process.send_signal(signal.SIGKILL)
    with warm.script(RUN, server.api_base, str(path), str(count)) as process:
        out, err = process.communicate()
    assert (process.returncode, out.strip(), err) == (0, "0", "")
    kept = lines(path)
    assert len(kept) == len({line["custom_id"] for line in kept}) == count
    assert count <= len(server.requests) <= count + kills * 8
    server.reset()
    rows = batch(server.api_base, chats(count), checkpoint=path)
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert not server.requests


def test_the_file_has_openais_output_shape_and_neither_prompt_nor_key(server: Server, path: Path) -> None:
    """One line a row: custom_id, response with status and body, error; digests, not texts, tell the request."""
    batch(server.api_base, chats(3), checkpoint=path)
    for line in lines(path):
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"]
        assert line["error"] is None
    requests = [line["llmbatch"] for line in lines(path)]
    assert KEY not in path.read_text()
    assert not any(question(i) in json.dumps(requests) for i in range(3))


def test_a_torn_last_line_is_repaired(server: Server, path: Path) -> None:
    """Half a line at the end is dropped, and its row sent again."""
    batch(server.api_base, chats(4), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-50])
    server.reset()
    rows = batch(server.api_base, chats(4), checkpoint=path)
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert len(server.requests) == 1
    assert len(lines(path)) == 4


def test_a_last_line_without_its_newline_stays_a_line(server: Server, path: Path) -> None:
    """As an editor may leave it: what is written after it is a line of its own, also where failed rows are dropped."""
    server.handler = lambda request: Response(400) if request.text in fails else None
    for first_fails in (False, True):
        fails = {question(0)} if first_fails else set()
        path.unlink(missing_ok=True)
        batch(server.api_base, chats(3), checkpoint=path, max_workers=1)
        path.write_bytes(path.read_bytes()[:-1])
        fails = set()
        for count in (5, 6):
            rows = batch(server.api_base, chats(count), checkpoint=path)
            assert all(answered(row, i) for i, row in enumerate(rows))
        assert len(lines(path)) == 6
    assert len(server.requests) == 6 + 7


def test_a_rewritten_file_stays_where_and_what_it_is(server: Server, path: Path, tmp_path: Path) -> None:
    """A link to it, its mode and its owner outlive the dropping of failed rows; so do a job's state and payloads."""
    real = tmp_path / "elsewhere" / "real.jsonl"
    path.symlink_to(real)
    real.parent.mkdir()
    server.handler = lambda request: Response(400) if request.text == question(1) else None
    batch(server.api_base, chats(3), checkpoint=path)
    real.chmod(0o600)
    before = real.stat()
    server.handler = None
    assert not batch(server.api_base, chats(3), checkpoint=path).failed
    assert path.is_symlink()
    assert len(lines(real)) == 3
    assert real.stat().st_ino != before.st_ino, "it was rewritten"
    llmbatch.write_batch_file(path, llmbatch.render_batch_requests(chats(2), "gpt-4o-mini"))
    assert path.is_symlink()
    assert len(lines(real)) == 2
    now = real.stat()
    assert (now.st_mode, now.st_uid, now.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [file.name for file in real.parent.iterdir()] == ["real.jsonl"]


def test_what_cannot_be_rewritten_is_an_error_with_its_mend(server: Server, tmp_path: Path) -> None:
    """A folder that takes no file beside it (here for the name's length; else read-only), a pipe, a device."""
    path = tmp_path / ("x" * 250)
    server.handler = lambda request: Response(400) if request.text == question(1) else None
    batch(server.api_base, chats(3), checkpoint=path)
    server.reset()
    before = path.read_bytes()
    with pytest.raises(llmbatch.CheckpointError, match="folder"):
        batch(server.api_base, chats(3), checkpoint=path)
    assert path.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(llmbatch.CheckpointError, match="another path"):
            batch(server.api_base, chats(3), checkpoint=other)
    assert not server.requests


CHILD = """
import os, sys
from tests.talk import batch, chats
import llmbatch
from tests.talk import place
base, path = sys.argv[1:]
rows = iter(llmbatch.as_completed(chats(30), checkpoint=path, **place(base, max_workers=2)))
next(rows)
child = os.fork()
if child == 0:
    sys.stdin.readline()
    os._exit(0)
print("forked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.processes
def test_a_forked_child_does_not_keep_the_file(warm: Warm, server: Server, path: Path) -> None:
    """The file is free when the run that holds it is killed, though a child that it forked lives on."""
    with warm.script(CHILD, server.api_base, str(path)) as process:
        assert process.stdout.readline() == "forked\n"
        with pytest.raises(llmbatch.CheckpointError, match="in use"):
            batch(server.api_base, chats(30), checkpoint=path)
        process.kill()
        process.wait()
        assert not batch(server.api_base, chats(30), checkpoint=path).failed


def test_a_file_that_is_no_journal_is_not_touched(server: Server, path: Path) -> None:
    """Somebody's notes are an error, not a checkpoint to write into."""
    path.write_text("my notes\nmore notes\n")
    with pytest.raises(llmbatch.CheckpointError, match=r"run\.jsonl"):
        batch(server.api_base, chats(1), checkpoint=path)
    assert path.read_text() == "my notes\nmore notes\n"
    assert not server.requests


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full once a file has so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_a_whole_file_and_rows_that_say_so(server: Server, path: Path) -> None:
    """When a row cannot be written no more is sent; what is there can be read, and the rerun goes on."""
    batch(server.api_base, chats(2), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1])
    with files_of_at_most(path.stat().st_size + 5000):
        rows = batch(server.api_base, chats(60), checkpoint=path, max_workers=2)
    assert len(rows) == 60
    assert 2 < len(rows.succeeded) < 20
    assert f"cannot write to the checkpoint {path}: File too large; make room" in rows.failed[-1]["error"]
    kept = sum(line["error"] is None for line in lines(path))
    assert 2 < kept <= len(rows.succeeded)
    assert len(server.requests) <= len(rows.succeeded) + 2
    server.reset()
    assert not batch(server.api_base, chats(60), checkpoint=path).failed
    assert len(server.requests) == 60 - kept


def test_a_full_disk_does_not_lose_what_an_earlier_run_has_answered(server: Server, path: Path) -> None:
    """Answers under new ids are given back though the ids cannot be written; what is missing is not sent."""
    batch(server.api_base, chats(4), checkpoint=path)
    server.reset()
    ids = [f"mine-{i}" for i in range(5)]
    with files_of_at_most(path.stat().st_size):
        rows = batch(server.api_base, chats(5), checkpoint=path, custom_ids=ids, max_workers=1)
    assert [row["custom_id"] for row in rows] == ids
    assert [answered(row, i) for i, row in enumerate(rows)] == [True] * 4 + [False]
    assert not server.requests


def test_new_ids_find_the_same_answers(server: Server, path: Path) -> None:
    """The caller's ids are names: the request is what is known, under whatever ids it was written."""
    for name in ("a", "b", "a"):
        ids = [f"{name}-{i}" for i in range(3)]
        rows = batch(server.api_base, chats(3), checkpoint=path, custom_ids=ids)
        assert [row["custom_id"] for row in rows] == ids
    assert len(server.requests) == 3


def test_a_changed_field_is_sent_again_and_named(server: Server, path: Path, log: list[str]) -> None:
    """Another model or parameter is another request; the log says which field it was."""
    batch(server.api_base, chats(3), checkpoint=path)
    server.reset()
    batch(server.api_base, chats(3), checkpoint=path, temperature=0.9)
    batch(server.api_base, chats(3), checkpoint=path, model="openai/gpt-4o")
    assert len(server.requests) == 6
    changes = [line for line in log if "(by field)" in line]
    assert "temperature" in changes[0]
    assert "model" in changes[1]


def test_the_changed_field_is_that_of_its_prompt(server: Server, path: Path, log: list[str]) -> None:
    """Each row is compared with what was asked of the same prompt before, or of the same text."""
    first, second = {"prompt": "a", "seed": 1}, {"prompt": "b", "top_p": 0.5}
    batch(server.api_base, [first, second], checkpoint=path)
    batch(server.api_base, [{**first, "seed": 2}, {**second, "top_p": 0.6}, "c"], checkpoint=path)
    options = place(server.api_base, model="openai/e", checkpoint=path)
    llmbatch.create_embeddings_batch(["a", "b"], **options)
    llmbatch.create_embeddings_batch(["b", "c"], **options, dimensions=2)
    changes = [line.split("(by field): ")[1].split("} {")[0] for line in log if "(by field)" in line]
    assert changes == ["{'seed': 1, 'top_p': 1", "{'dimensions': 1"]


def test_another_order_and_more_rows_send_only_what_is_new(server: Server, path: Path) -> None:
    """Rows are known by what they ask, not by where they stand; another key or server changes nothing."""
    batch(server.api_base, chats(6), checkpoint=path)
    server.reset()
    before = path.stat()
    rows = batch(server.api_base, [*reversed(chats(6)), *chats(2, start=6)], checkpoint=path, api_key="sk-another")
    assert [answered(row, i) for row, i in zip(rows, [5, 4, 3, 2, 1, 0, 6, 7], strict=True)] == [True] * 8
    assert sorted(request.text for request in server.requests) == [question(6), question(7)]
    assert path.stat().st_ino == before.st_ino, "nothing was to be dropped, so nothing was rewritten"


def test_duplicates_are_rows_of_their_own(server: Server, path: Path) -> None:
    """The same question three times is asked three times, and found three times."""
    rows = batch(server.api_base, chats(1) * 3, checkpoint=path, temperature=1.0)
    assert len({row["custom_id"] for row in rows}) == len(server.requests) == 3
    server.reset()
    assert not batch(server.api_base, chats(1) * 4, checkpoint=path, temperature=1.0).failed
    assert len(server.requests) == 1


def test_failed_rows_are_sent_again(server: Server, path: Path) -> None:
    """A failure is written, and tried anew by the next run; the answer replaces it in the file."""
    server.handler = lambda request: Response(400) if request.text == question(1) else None
    assert len(batch(server.api_base, chats(3), checkpoint=path).failed) == 1
    server.handler = None
    server.reset()
    assert not batch(server.api_base, chats(3), checkpoint=path).failed
    assert len(server.requests) == 1
    batch(server.api_base, chats(3), checkpoint=path)
    assert len(lines(path)) == 3


def test_embeddings_resume_too(server: Server, path: Path) -> None:
    """Each text is a row in the file, however the texts were sent together, and in whatever order."""
    options = place(server.api_base, model="openai/e", checkpoint=path)
    texts = [f"text {i}" for i in range(30)]
    first = llmbatch.create_embeddings_batch(texts[:20], **options)
    server.reset()
    both = llmbatch.create_embeddings_batch(texts[::-1], **options)
    assert both[:9:-1] == [{**row, "resumed": True} for row in first]
    assert both.embeddings == [vector_for(text) for text in reversed(texts)]
    assert [text for request in server.requests for text in request.json["input"]] == texts[:19:-1]


def test_a_second_run_on_the_file_is_told(server: Server, tmp_path: Path) -> None:
    """Until the first has ended; folders that are not there are made."""
    path = tmp_path / "not" / "there" / "run.jsonl"
    told = threading.Event()

    def slowly() -> Iterator[Any]:
        yield chats(1)[0]
        told.wait(60)
        yield from chats(2, start=1)

    rows = iter(llmbatch.as_completed(slowly(), **place(server.api_base, checkpoint=path)))
    next(rows)
    with pytest.raises(llmbatch.CheckpointError, match=f"the checkpoint {path} is in use by another run"):
        batch(server.api_base, chats(3), checkpoint=path)
    told.set()
    assert len(list(rows)) == 2
    assert not batch(server.api_base, chats(3), checkpoint=path).failed
    assert len(server.requests) == 3


def test_a_file_that_could_not_be_read_is_let_go(path: Path) -> None:
    """Mended, it can be opened, though the error that it gave is still held."""
    path.write_text('{"custom_id": "a", "error": null}\nmy notes\n')
    with pytest.raises(llmbatch.CheckpointError, match=f"line 2 of {path} is not a batch output line"):
        Checkpoint(path)
    path.write_text("")
    Checkpoint(path).close()


def test_a_closed_file_is_free_though_a_child_has_it(path: Path) -> None:
    """A process forked meanwhile shares what is open, as another descriptor of it does."""
    journal = Checkpoint(path)
    childs = os.dup(journal._file.fileno())
    journal.close()
    Checkpoint(path).close()
    os.close(childs)


def test_a_rewritten_file_is_held_too(path: Path) -> None:
    """One that held a failed row is another file after it was opened, and is nobody else's either."""
    path.write_text('{"custom_id": "a", "error": {"message": "x"}, "response": null}\n')
    journal = Checkpoint(path)
    assert not path.read_text()
    with pytest.raises(llmbatch.CheckpointError, match="in use"):
        Checkpoint(path)
    journal.close()


def test_a_file_that_is_replaced_while_it_is_opened_is_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder rewrites it, and lets go of the old one, between another's opening and locking."""
    lock = checkpoint.lock

    def late(file: Any, place: Path) -> None:
        path.unlink()
        path.touch()
        lock(file, place)

    path.touch()
    monkeypatch.setattr(checkpoint, "lock", late)
    with pytest.raises(llmbatch.CheckpointError, match="in use"):
        Checkpoint(path)


@pytest.mark.processes
def test_a_second_process_on_the_file_is_told(warm: Warm, server: Server, path: Path) -> None:
    """Two runs never write into one file: the second gets an error that says what to do, and sends nothing."""
    server.handler = lambda request: Response(200, delay=30)
    with warm.script(RUN, server.api_base, str(path), "8") as process:
        until(process, lambda: len(server.requests) >= 8)
        with pytest.raises(llmbatch.CheckpointError, match="in use"):
            batch(server.api_base, chats(8), checkpoint=path)
        process.kill()
    assert len(server.requests) == 8
    server.handler = None
    assert not batch(server.api_base, chats(8), checkpoint=path).failed


def test_a_place_that_cannot_be_written_is_an_error_before_sending(server: Server, tmp_path: Path) -> None:
    """A directory in the place of the file is misuse of the call, not of each row."""
    with pytest.raises(llmbatch.CheckpointError):
        batch(server.api_base, chats(1), checkpoint=tmp_path)
    assert not server.requests
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ['{"custom_id": "a"}', '{"error": null}', '{"response": {}}', "[]", "7"])
def test_a_file_of_something_else_is_no_journal(path: Path, line: str) -> None:
    """An output line has an id, and a response or an error; nothing else is touched."""
    path.write_text(line + "\n")
    with pytest.raises(llmbatch.CheckpointError, match=f"line 1 of {path} is not a batch output line"):
        batch("http://127.0.0.1:9", chats(1), checkpoint=path)
    assert path.read_text() == line + "\n"


def test_a_last_line_without_its_newline_joins_no_other(server: Server, path: Path) -> None:
    """Whatever its length, and that of the lines before it."""
    line = '{"custom_id": "%s", "response": {"status_code": 200, "body": {"output": []}}, "error": null}'
    path.write_text(line % "a" + "\n" + line % "bb")
    batch(server.api_base, chats(1), checkpoint=path)
    assert len(lines(path)) == 3


@pytest.mark.parametrize(
    ("part", "odd"),
    [
        (("custom_id",), 5),
        (("response",), [1]),
        (("llmbatch",), "x"),
        (("llmbatch", "cost"), "free"),
        (("llmbatch", "attempts"), None),
        (("llmbatch", "fingerprints"), {"messages": [1]}),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_line_of_odd_shape_is_refused_before_anything_is_sent(
    server: Server, path: Path, part: tuple[str, ...], odd: Any
) -> None:
    """It is not of ours, or was edited; the error says which."""
    batch(server.api_base, chats(2), checkpoint=path)
    made = lines(path)
    *above, last = part
    holder = made[1]
    for name in above:
        holder = holder[name]
    holder[last] = odd
    path.write_text("".join(json.dumps(line) + "\n" for line in made))
    server.reset()
    with pytest.raises(llmbatch.CheckpointError, match=f"line 2 of {path} is not a batch output line"):
        batch(server.api_base, chats(2), checkpoint=path)
    assert not server.requests


def test_an_answer_in_a_checkpoint_that_cannot_be_read_is_asked_for_again(server: Server, path: Path) -> None:
    """And one whose usage is none has none."""
    batch(server.api_base, chats(3), checkpoint=path)
    made = {line["response"]["body"]["choices"][0]["message"]["content"]: line for line in lines(path)}
    made[answer_to(question(0))]["response"]["body"]["choices"] = ["hello"]
    made[answer_to(question(1))]["response"]["body"]["usage"] = {"total_tokens": "many"}
    path.write_text("".join(json.dumps(line) + "\n" for line in made.values()))
    server.reset()
    rows = batch(server.api_base, chats(3), checkpoint=path)
    assert all(answered(row, number) for number, row in enumerate(rows))
    assert [request.text for request in server.requests] == [question(0)]
    assert rows[1]["usage"]["total_tokens"] == 0


# A resumed row is checked like a new one


class Review(BaseModel):
    stars: int


def stricter() -> type[BaseModel]:
    """A class of the same schema that takes fewer values."""

    class Strict(Review):
        @field_validator("stars")
        @classmethod
        def _at_most_five(cls, stars: int) -> int:
            if stars > 5:
                raise ValueError("at most 5")
            return stars

    Strict.__name__ = Strict.__qualname__ = "Review"
    Strict.model_rebuild(force=True)
    return Strict


def test_resume_with_stricter_class_sends_what_no_longer_fits(server: Server, tmp_path: Path) -> None:
    """The row is asked again like a new one, and the summary counts it; rows that fit stay."""
    server.handler = lambda request: said(json.dumps({"stars": 9 if request.text == question(0) else 4}))
    options: dict[str, Any] = {"checkpoint": tmp_path / "run.jsonl"}
    batch(server.api_base, chats(2), response_format=Review, **options)
    server.handler = lambda _: said('{"stars": 5}')
    results = batch(server.api_base, chats(2), response_format=stricter(), **options)
    assert [found.stars for found in results.parsed] == [5, 4]
    assert [row.get("rechecked") for row in results] == [True, None]
    assert "1 rows in the checkpoint no longer passed" in results.summary()
    assert len(server.requests) == 3
    again = batch(server.api_base, chats(2), response_format=stricter(), **options)
    assert len(again.resumed) == 2
    assert len(server.requests) == 3


def test_resume_with_validate_looks_at_resumed_rows(server: Server, tmp_path: Path) -> None:
    """What `validate` rejects is sent again; what it accepts is not."""
    path, answers = tmp_path / "run.jsonl", ["short", "a long answer", "a longer answer"]
    server.handler = lambda _: said(answers[len(server.requests) - 1])
    batch(server.api_base, chats(2), checkpoint=path, max_workers=1)
    results = batch(
        server.api_base, chats(2), checkpoint=path, validate=lambda row: "too short" if "long" not in str(row) else None
    )
    assert results.texts == ["a longer answer", "a long answer"]
    assert len(results.resumed) == 1


def test_resume_with_reask_gives_cut_answer_more_room_once(server: Server, tmp_path: Path) -> None:
    """An answer that was cut off is asked again where `reask` was not spent on it."""
    path = tmp_path / "run.jsonl"
    server.handler = lambda _: said("half", "length")
    batch(server.api_base, chats(1), checkpoint=path)
    for _ in range(2):
        (row,) = batch(server.api_base, chats(1), checkpoint=path, reask=1)
    assert row["asks"] == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("first", [True, False], ids=["no longer sent", "newly sent"])
def test_checkpoint_survives_upgrade_that_changes_untouched_default(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Whether an untouched default is sent is up to LiteLLM's version; a caller's own value is never ignored."""
    path = tmp_path / "run.jsonl"
    accepted = {True: {"temperature": 0.3, "max_tokens": 200}, False: {"max_tokens": 200}}
    for sends in (first, not first):
        monkeypatch.setattr("llmbatch._litellm.accepted_defaults", lambda *_, sends=sends: accepted[sends])
        results = batch(server.api_base, [*chats(2), *chats(1)], checkpoint=path)
    assert len(results.resumed) == 3
    assert len(server.requests) == 3
    batch(server.api_base, chats(1), checkpoint=path, temperature=0.31)
    assert len(server.requests) == 4


def test_checkpoint_survives_upgrade_that_renders_dataclass_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pydantic writes a dataclass's docstring into the schema from 2.13 on; a changed field is a changed request."""

    @dataclasses.dataclass
    class Where:
        """A place."""

        city: str = ""

    class Sentiment(BaseModel):
        positive: bool
        where: Where | None = None

    path = tmp_path / "run.jsonl"
    server.handler = lambda _: said('{"positive": true, "where": null}')
    monkeypatch.setattr(GenerateJsonSchema, "dataclass_schema", _undocumented(GenerateJsonSchema.dataclass_schema))
    identity._schema.cache_clear()
    batch(server.api_base, chats(2), checkpoint=path, response_format=Sentiment)
    monkeypatch.undo()
    identity._schema.cache_clear()
    assert "A place." in json.dumps(Sentiment.model_json_schema())
    results = batch(server.api_base, chats(2), checkpoint=path, response_format=Sentiment)
    assert len(results.resumed) == 2
    assert len(server.requests) == 2


def _undocumented(render: Any) -> Any:
    def rendered(self: Any, schema: Any) -> Any:
        made = render(self, schema)
        made.pop("description", None)
        return made

    return rendered

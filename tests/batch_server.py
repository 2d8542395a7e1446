"""OpenAI's /v1/files and /v1/batches on the loopback provider, with scripted ends for jobs and for single requests.

    batches = BatchProvider(server)             # a tests.server.Server; its chats stay as they are
    batches.polls = 2                           # looks at a job before it has ended
    batches.end = "expired"                     # how jobs end; or a callable of the input's lines
    batches.fates["id-7"] = "missing"           # "failed", "twice", "contradicted", "garbled", "expired", "empty"
    batches.lines[0] = "missing"                # the same by a line's place in its file
    batches.closing = 5                         # looks at a cancelled job before it has ended
    batches.queue = 1                           # batches that the account may have; more fail for their tokens
    batches.fault("POST", "/v1/batches", Response(503))     # the next such request fails …
    batches.fault("POST", "/v1/batches", Response(reset=True), done=True)   # … though it was carried out
    batches.files, batches.jobs                 # what was created, by id
    batches.answered                            # the ids of the requests that are charged for

Answers are the chat server's own, so a row can be checked against `answer_to(prompt)`.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.replies import reply
from tests.wire import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmbatch import BatchJob
    from tests.server import Server

MODEL = "openai/gpt-4o-mini"
_BOUNDARY = re.compile(r"boundary=\"?([^\";]+)")
_ENDED = {"completed", "failed", "expired", "cancelled"}


def asked(count: int, word: str = "Question") -> list[list[dict[str, str]]]:
    """Conversations that differ."""
    return [[{"role": "user", "content": f"{word} {i}"}] for i in range(count)]


def submitted(place: dict[str, Any], count: int = 3, **options: Any) -> BatchJob:
    """A job of so many conversations, at the place where a server is."""
    from llmbatch import submit_batch_job

    return submit_batch_job(asked(count), MODEL, **{**place, **options})


def rejected(code: str, message: str) -> dict[str, Any]:
    """What the provider says of a batch whose input file it rejects as a whole."""
    return {"status": "failed", "errors": {"data": [{"code": code, "message": message, "line": None, "param": None}]}}


@dataclass
class File:
    id: str
    name: str
    content: bytes
    created_at: int = field(default_factory=lambda: int(time.time()))

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "object": "file", "bytes": len(self.content), "created_at": self.created_at,
                "filename": self.name, "purpose": "batch", "status": "processed"}  # fmt: skip


class BatchProvider:
    """Serves the routes through `server.handler`; everything else goes to the server's usual answers."""

    def __init__(self, server: Server) -> None:
        self.files: dict[str, File] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.polls = 1
        self.end: str | Callable[[list[bytes]], dict[str, Any]] = "completed"
        self.fates: dict[str, str] = {}
        self.lines: dict[int, str] = {}
        self.closing = 1
        self.queue = 10**6
        self.answered: list[str] = []
        self.listed = True
        self.keep_metadata = True
        self._faults: list[tuple[str, str, Response, bool]] = []
        self._looks: dict[str, int] = {}
        server.handler = self.handle

    def fault(self, method: str, path: str, response: Response, *, done: bool = False) -> None:
        """Let the next request of this method whose path starts so be answered with `response`."""
        self._faults.append((method, path, response, done))

    def handle(self, request: Request) -> Response | None:
        path = request.path.partition("?")[0].replace("/openai/", "/v1/", 1)
        if not path.startswith(("/v1/files", "/v1/batches")):
            return None
        for fault in self._faults:
            method, prefix, response, done = fault
            if request.method == method and path.startswith(prefix):
                self._faults.remove(fault)
                if done:
                    self._route(request, path)
                return response
        return self._route(request, path)

    def _route(self, request: Request, path: str) -> Response:  # noqa: PLR0911 - one return a route
        kind, *rest = path.removeprefix("/v1/").split("/")
        if request.method == "POST" and not rest:
            return Response(body=self._upload(request) if kind == "files" else self._create(request.json))
        known: dict[str, Any] = self.files if kind == "files" else self.jobs
        if not rest:
            if not self.listed:
                return Response(404)
            items = [item.shown() if isinstance(item, File) else item for item in reversed(known.values())]
            return Response(body={"object": "list", "data": items, "has_more": False})
        if rest[0] not in known:
            return Response(404)
        if kind == "files":
            file = self.files[rest[0]]
            return Response(body=file.content if rest[1:] == ["content"] else file.shown())
        if rest[1:] == ["cancel"]:
            return Response(body=self._cancel(self.jobs[rest[0]]))
        return Response(body=self._look(self.jobs[rest[0]]))

    def _upload(self, request: Request) -> dict[str, Any]:
        found = _BOUNDARY.search(request.headers["content-type"])
        assert found
        name, content = "", b""
        for piece in request.body.split(b"--" + found.group(1).encode()):
            head, _, body = piece.partition(b"\r\n\r\n")
            if named := re.search(rb'filename="([^"]+)"', head):
                name, content = named.group(1).decode(), body.removesuffix(b"\r\n")
        return self.add_file(name, content).shown()

    def add_file(self, name: str, content: bytes) -> File:
        file = File(f"file-{len(self.files) + 1}", name, content)
        self.files[file.id] = file
        return file

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        lines = self.files[asked["input_file_id"]].content.splitlines()
        job = {
            "id": f"batch_{len(self.jobs) + 1}", "object": "batch", "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"], "completion_window": asked["completion_window"],
            "metadata": asked.get("metadata") if self.keep_metadata else None, "status": "validating",
            "created_at": int(time.time()), "in_progress_at": None, "expires_at": None, "errors": None,
            "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self.jobs[job["id"]] = job
        self._looks[job["id"]] = 0
        if sum(other["status"] not in _ENDED for other in self.jobs.values()) > self.queue:
            job |= rejected("token_limit_exceeded", "Enqueued token limit reached")
        elif callable(self.end):
            job |= self.end(lines)
        return job

    def _look(self, job: dict[str, Any]) -> dict[str, Any]:
        self._looks[job["id"]] += 1
        if job["status"] not in _ENDED:
            if job["status"] == "cancelling":
                if self._looks[job["id"]] >= self.closing:
                    self._finish(job, "cancelled")
            elif self._looks[job["id"]] >= self.polls:
                self._finish(job, str(self.end))
            elif job["status"] == "validating":
                job["status"] = "in_progress"
        return job

    def _cancel(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["status"] not in _ENDED:
            job["status"] = "cancelling"
            self._looks[job["id"]] = 0
        return job

    def _finish(self, job: dict[str, Any], status: str) -> None:
        lines = self.files[job["input_file_id"]].content.splitlines()
        output, errors = [], []
        for at, text in reversed(list(enumerate(lines))):  # output comes in another order than the input
            line = json.loads(text)
            fate = self.fates.get(line["custom_id"], self.lines.get(at, ""))
            made = self._outcome(line, fate)
            for outcome in made:
                (errors if b'"response": null' in outcome or b'"status_code": 4' in outcome else output).append(outcome)
        job["status"], job[f"{status}_at"] = status, int(time.time())
        job["request_counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}
        if output:
            job["output_file_id"] = self.add_file(f"{job['id']}_output.jsonl", b"\n".join(output) + b"\n").id
        if errors:
            job["error_file_id"] = self.add_file(f"{job['id']}_error.jsonl", b"\n".join(errors) + b"\n").id

    def _outcome(self, line: dict[str, Any], fate: str) -> list[bytes]:  # noqa: PLR0911 - one return a fate
        custom_id = line["custom_id"]
        request = Request("POST", line["url"], {}, json.dumps(line["body"]).encode(), 0.0)
        body = reply(request).body

        def written(response: Any, error: Any = None) -> bytes:
            return json.dumps(
                {"id": f"req_{custom_id}", "custom_id": custom_id, "response": response, "error": error}
            ).encode()

        answer = {"status_code": 200, "request_id": "r", "body": body}
        if fate in {"", "twice", "contradicted", "garbled"}:
            self.answered.append(custom_id)
        if fate == "missing":
            return []
        if fate == "failed":
            refusal = {"error": {"message": "scripted refusal", "type": "invalid_request_error", "code": "bad_prompt"}}
            return [written({"status_code": 400, "request_id": "r", "body": refusal})]
        if fate == "expired":
            expired = {
                "code": "batch_expired",
                "message": "This request could not be executed before the batch expired.",
            }
            return [written(None, expired)]
        if fate == "empty":
            return [written({"status_code": 0, "request_id": "", "body": {}})]
        if fate == "garbled":
            return [written(answer)[:-20]]
        if fate == "contradicted":
            other = json.loads(json.dumps(body).replace("answer ", "another "))
            return [written(answer), written({**answer, "body": other})]
        return [written(answer)] * (2 if fate == "twice" else 1)

"""Input files that the provider rejected for a reason that passes: when they are submitted again.

OpenAI and Azure limit the tokens that an account may have in the queue of batch jobs. A batch that does not fit fails
with `token_limit_exceeded`, and can be created again when others have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from llmbatch._jobs.job_state import WAITING, InputFile, JobState
from llmbatch._jobs.remote import Remote
from llmbatch._util.batch_log import logger

# Seconds between attempts when none of the job's own batches runs, and the factor by which each pause is longer.
FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 30.0, 600.0, 2.0
_FILE_PAUSE = 3.0  # seconds until a file is looked for again that was not found after its upload


class WaitingFiles:
    """Decides when the waiting input files of a job are submitted again."""

    def __init__(self, state: JobState) -> None:
        self._state = state
        self._ended = 0
        self._pause, self._next_attempt = FIRST_PAUSE, 0.0
        self._rejected_alone: set[str] = set()

    async def submit(self, remote: Remote, save: Callable[[], None]) -> None:
        """Submit as many waiting files as may fit now: one for each batch of the job that has ended."""
        waiting = [file for file in self._state.input_files if file.status == WAITING]
        waiting.sort(key=lambda file: file.queue_was_full)
        for file in waiting[: self._room(waiting)]:
            alone = file.queue_was_full and not self._any_running() and await remote.queue_is_empty()
            if alone and file.name in self._rejected_alone:
                file.reject("it has more tokens than the account may enqueue: submit with a smaller max_rows")
                save()
                continue
            if alone:
                self._rejected_alone.add(file.name)
            found = await remote.find_running_batch(file)
            if found is not None:
                await remote.take_over(file, found)
                save()
            else:
                await remote.submit(file, None)

    def _room(self, waiting: list[InputFile]) -> int:
        """Return how many files to try now."""
        ended = sum(file.ended for file in self._state.input_files)
        freed, self._ended = ended - self._ended, ended
        unfound = [file for file in waiting if not file.queue_was_full]
        now = time.monotonic()
        if freed > 0:
            self._pause, self._next_attempt = FIRST_PAUSE, now + FIRST_PAUSE
            return freed
        if not waiting or (self._any_running() and not unfound) or now < self._next_attempt:
            return 0
        self._next_attempt = now + (_FILE_PAUSE if unfound else self._pause)
        self._pause = min(self._pause * _FACTOR, _LONGEST_PAUSE)
        logger.debug("Batch job {}: {} input files wait to be submitted again", self._state.id, len(waiting))
        return len(unfound) or 1

    def _any_running(self) -> bool:
        return any(file.running for file in self._state.input_files)

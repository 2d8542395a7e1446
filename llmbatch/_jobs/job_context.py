"""The options of a job that answers a batch, and how its job is found again or prepared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbatch._jobs import submit
from llmbatch._jobs.input_files import further_input_files
from llmbatch._jobs.job_state import InputFile, JobState, job_state_path
from llmbatch._jobs.provider_job import ProviderJob, prepared_job
from llmbatch._request.plans import ChatPlan
from llmbatch._util.batch_log import logger
from llmbatch.options import Options

_ROW_OPTIONS = ("reask", "validate", "dedupe")  # of the rows, not of the job


@dataclass(frozen=True)
class JobContext:
    """The options of a job, known before any input is read.

    Attributes:
        completion_window: how long the provider may take.
        state_path: the job's state file, next to the checkpoint; None without a checkpoint.
        seconds: the deadline, infinite without one.
        call: the arguments of the job's requests.
    """

    completion_window: str
    state_path: Path | None
    seconds: float
    call: Mapping[str, Any]

    @classmethod
    def of(cls, call: Mapping[str, Any], options: Options, completion_window: str) -> JobContext:
        """Return the context of a call."""
        return cls(
            completion_window=completion_window,
            state_path=None if options.checkpoint is None else job_state_path(options.checkpoint),
            seconds=math.inf if options.deadline is None else options.deadline,
            call={name: value for name, value in call.items() if name not in _ROW_OPTIONS},
        )

    def earlier_job(self, plan: ChatPlan, wanted: Collection[str]) -> ProviderJob | None:
        """Return the job that an earlier call left, if it has any of the wanted rows.

        Raises ValueError if it has none of them and is still running.
        """
        path = self.state_path
        if path is None or not path.exists():
            return None
        job = ProviderJob(JobState.load(path), path, submit.access_from(plan.params), plan.response_format)
        if any(key in wanted for key in job.state.custom_ids):
            return job
        job.abandon_unsubmitted()
        if not job.state.ended:
            raise ValueError(
                f"{path} is the state of job {job.id}, which is still running for other requests. Give another "
                "checkpoint, or cancel that job"
            )
        path.unlink()
        return None

    async def prepared(
        self, job: ProviderJob | None, requests: Iterable[Any], folder: Path
    ) -> tuple[ProviderJob, list[Path], list[InputFile]]:
        """Write the input files of these requests, of a new job or as further ones of an earlier job.

        Returns the job, and the paths and input files to submit. Raises NotImplementedError for a provider without
        batch support.
        """
        submission = submit.of_call(self.call, requests, None)
        if job is None:
            job, paths = await prepared_job(
                submission, self.state_path, folder, completion_window=self.completion_window
            )
            return job, paths, job.state.input_files
        logger.info("Batch job {}: submitting the rows that it lacks", job.id)
        paths, files = await asyncio.to_thread(further_input_files, job.state, submission.lines, folder)
        job.save()
        return job, paths, files

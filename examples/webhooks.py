"""Batch jobs in a server: collect the results when the provider's webhook says that a batch has ended.

`on_event` works in the route of any web framework. Webhooks can get lost; call `job.refresh()` occasionally too.
"""

from collections.abc import Mapping
from pathlib import Path

from llmbatch import BatchJob, submit_batch_job

JOBS = Path("jobs")  # one state file per job


def on_event(body: bytes, headers: Mapping[str, str]) -> int:
    """Handle a webhook request and return the HTTP status to answer with."""
    try:  # checks the signature with OPENAI_WEBHOOK_SECRET, or with secret=
        job = BatchJob.of_event(body, headers, JOBS.glob("*.json"))
    except ValueError:
        return 400  # forged, or older than five minutes
    # An event is a hint: refresh() asks the provider, so repeated and late events do no harm.
    if job is not None and job.refresh().ended:
        job.results().to_jsonl(f"answers-{job.id}.jsonl")
    return 200


if __name__ == "__main__":
    JOBS.mkdir(exist_ok=True)
    chats = [[{"role": "user", "content": f"Name a city in {country}."}] for country in ("France", "Italy")]
    job = submit_batch_job(chats, "gpt-4o-mini", state=JOBS / "cities.json")
    print(job, "will call your webhook when it has ended")

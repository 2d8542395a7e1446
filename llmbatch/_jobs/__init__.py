"""The provider's Batch API. `llmbatch.jobs`, `llmbatch.payloads` and lane="job" or "cheapest" lead here.

A job's requests are lines (`input_files`) of one or more input files. `submit` prepares them, `job_state` is what is
known of a job, `remote` sends requests to its provider, `provider_job` puts these together, `output_files` makes rows
of its answers, `resubmit` sends failed rows again, and `batch_job` is the object that users have. `job_run` and
`cheapest_run` are batches that a job answers (`lane_batch`); their live rows are made by `_batch`.
"""

"""The provider's Batch API: a job's parts. `llmbatch.jobs` and `llmbatch.payloads` are the ways in.

The lines of its input files and the files (`rendering`), what is submitted (`submit`), what is known of it (`state`),
the provider's side (`remote`), its rows (`results`), starting it again (`again`), and the object that users hold
(`job`). Live rows are made by `_batch`; nothing here fans out.
"""

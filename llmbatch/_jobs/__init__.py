"""The provider's Batch API: a job's parts. `llmbatch.jobs` and `llmbatch.payloads` are the ways in.

The lines of its files (`rendering`), what is known of it (`state`), its input files (`files`, `submit`), the provider's
side (`remote`), its rows (`results`), starting it again (`again`), and the object that users hold (`job`). Live rows
are made by `_batch`; nothing here fans out.
"""

"""A batch job's parts. `llmbatch.jobs` is the way in.

What is known of it (`state`), its input files (`files`, `submit`), the provider's side (`remote`), its rows
(`results`), starting it again (`again`), and the object that users hold (`job`).
"""

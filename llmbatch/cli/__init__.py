"""The `llmbatch` command: lists of prompts through a model, from the shell.

Exit codes: 0 done; 1 rows failed or the job ended badly; 2 misuse; 3 not done yet; 4 the provider or network failed;
130 interrupted.
"""

from llmbatch.cli._main import main
from llmbatch.cli.job_commands import cancel, results, status, submit, wait
from llmbatch.cli.offline_commands import estimate, render, report
from llmbatch.cli.run_command import run

for _command in (run, render, estimate, submit, status, wait, results, cancel, report):
    main.add_command(_command)

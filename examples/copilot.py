"""GitHub Copilot, with the token of GITHUB_TOKEN: `gho_` tokens work directly, `ghu_` ones are exchanged and refreshed.

`model="copilot/gpt-4o"` does the same in any function, and `USE_COPILOT_CHAT=true` routes the plain ones there.
Requests are paced evenly at `COPILOT_REQUESTS_PER_MINUTE` (60). `GITHUB_COPILOT_API_BASE` and
`GITHUB_COPILOT_API_KEY_URL` override the endpoints, `extra_headers` the editor's headers. Costs are None: Copilot is
paid by subscription. Nothing ever moves to another vendor by itself.
"""

from llmbatch import create_chat_completions_batch_copilot

chats = [[{"role": "user", "content": "Write a function to sort a list."}]]
results = create_chat_completions_batch_copilot(chats, model="gpt-4o")
print(results.texts)

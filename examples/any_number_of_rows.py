"""Rows as they finish, for any number of them, and answers piece by piece.

`as_completed` takes a generator and keeps nothing: memory does not grow with the number of rows, and a slow consumer
slows the sending. Rows come out as they finish, however long the generator takes for the next: it may wait for them.
Leaving the loop cancels what is in flight. `async for` works as well.
"""

from llmbatch import as_completed, stream_chat_completions_batch

generated = ([{"role": "user", "content": f"Say {number}."}] for number in range(5))
for index, row in as_completed(generated):
    print(index, row.get("error") or row["choices"][0]["message"]["content"])

chats = [[{"role": "user", "content": f"Count to {number}."}] for number in (3, 4)]
for event in stream_chat_completions_batch(chats):
    print(event.get("delta", ""), end="")  # and at each row's end event["row"]

"""Any number of rows, as they finish, and streamed answers.

`as_completed` takes a list or a generator and yields `(index, row)` as rows finish. It keeps no rows, so memory stays
flat, and a slow consumer slows down the sending. The generator may block for as long as it likes. Leaving the loop
cancels the requests in flight. `async for` works as well.
"""

from llmbatch import as_completed, stream_chat_completions_batch

generated = ([{"role": "user", "content": f"Say {number}."}] for number in range(5))
for index, row in as_completed(generated):
    print(index, row.get("error") or row["choices"][0]["message"]["content"])

chats = [[{"role": "user", "content": f"Count to {number}."}] for number in (3, 4)]
for event in stream_chat_completions_batch(chats):
    print(event.get("delta", ""), end="")  # the last event of each row has event["row"]

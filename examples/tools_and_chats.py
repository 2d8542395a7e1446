"""Tools, and chats built step by step.

A typed Python function or a pydantic model becomes the tool's schema. Tool calls are in the row; you run them yourself.
A chat can be configured in any order. `ask` returns the answer's row and keeps the history (without a question that
failed). After `for_batch_request` nothing is sent and the payload is returned.
"""

from llmbatch import chat, create_chat_completions_batch


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Sunny in {city}"


results = create_chat_completions_batch([[{"role": "user", "content": "Weather in Paris?"}]], tools=[weather])
calls = [call for row in results.succeeded for call in row["choices"][0]["message"].get("tool_calls") or []]
print(calls)

talk = chat("gpt-4o-mini").with_instructions("Be brief.").with_temperature(0.7).with_tool(weather)
answer = talk.ask("What is the weather in Rome?")
print(answer["choices"][0]["message"])

payload = talk.for_batch_request().ask("And in Oslo?")
assert list(payload) == ["custom_id", "method", "url", "body"]

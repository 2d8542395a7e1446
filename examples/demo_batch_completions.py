"""Four everyday batches: questions, code, summaries, and context for the chunks of a document.

    uv run --extra local examples/demo_batch_completions.py

Without a key a small model (135 million parameters, so do not trust its answers) runs inside this process.
With OPENAI_API_KEY set the requests go to OpenAI, with GITHUB_TOKEN and USE_COPILOT_CHAT=true to GitHub Copilot.
"""

import os
import sys
import textwrap
from contextlib import ExitStack

from llmbatch import BatchResults, create_chat_completions_batch, enable_logging

QUESTIONS = ["What is the capital of France?", "Who invented the telephone?", "What is the speed of light?"]
TASKS = [
    "Write a function to sort a list",
    "Write a function to find duplicates",
    "Write a function to merge dictionaries",
]
DOCUMENTS = [
    "Bees carry pollen from flower to flower, so that plants make fruit. A third of our food depends on them.",
    "Arlen opened a library on Monday. It has 40,000 books, a reading room for children and free computers.",
    "The steam engine was improved by James Watt in 1769. It drove machines in factories and later pulled trains.",
]
REPORT = (
    "Annual report of Acme Tea. Sales grew in the north. The new factory opened in May. Prices will rise next year."
)
CHUNKS = REPORT.split(". ")[1:]


def chat(user: str, system: str | None = None) -> list[dict[str, str]]:
    """Build one conversation."""
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]


BATCHES = {
    # The last conversation is empty: a bad request becomes an error row and does not affect the others.
    "Bulk questions": ([*map(chat, QUESTIONS), []], {"max_tokens": 40}),
    "Code": ([chat(task, "You are a Python expert.") for task in TASKS], {"max_tokens": 60, "temperature": 0.2}),
    "Summaries": ([chat(text, "Summarize the following text.") for text in DOCUMENTS], {"max_tokens": 40}),
    "Context for chunks": (
        [chat(f"Document: {REPORT}\n\nChunk: {c}", "Provide context for this chunk.") for c in CHUNKS],
        {"max_tokens": 40},
    ),
}


def show(title: str, conversations: list[list[dict[str, str]]], results: BatchResults) -> None:
    """Print each request's last line with its answer or its error, and the batch's summary."""
    print(f"\n=== {title} " + "=" * (76 - len(title)))
    for conversation, row, text in zip(conversations, results, results.texts, strict=True):
        print(f"> {conversation[-1]['content'].splitlines()[-1]}" if conversation else "> (no messages)")
        answer = f"FAILED {row['error']}" if "error" in row else text or "(empty answer)"
        for line in answer.splitlines():
            print(textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="  ", replace_whitespace=False))
    print(f"\n{results.summary()}")


def main() -> int:
    """Run the four batches; return 1 if any real request failed."""
    enable_logging()
    failed = 0
    with ExitStack() as running:
        target = {}
        if not os.environ.get("OPENAI_API_KEY") and os.environ.get("USE_COPILOT_CHAT", "").lower() != "true":
            from llmbatch.local import local_server

            target = running.enter_context(local_server()).options
        for title, (conversations, settings) in BATCHES.items():
            results = create_chat_completions_batch(conversations, **settings, **target)
            show(title, conversations, results)
            failed += len(results.failed) - conversations.count([])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Images, audio and PDF files: build message parts from paths, URLs or bytes.

`image_part`, `audio_part` and `file_part` return a part for a message. llmbatch never reads a path that stands inside
a message by itself, because messages may come from strangers.
"""

from pathlib import Path

from llmbatch import create_chat_completions_batch, image_part

# A red square of one pixel, so that the example runs anywhere. Use image_part("photo.png") for your own files.
Path("red.png").write_bytes(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
)

question = {"type": "text", "text": "What colour is this?"}
chats = [[{"role": "user", "content": [question, image_part(picture)]}] for picture in ("red.png", Path("red.png"))]
results = create_chat_completions_batch(chats, "gpt-4o-mini", max_cost=1)
print(results.texts)

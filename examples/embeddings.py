"""Embeddings: many texts travel in one request. A text that the provider rejects fails alone."""

from llmbatch import create_embeddings_batch

results = create_embeddings_batch(["a text", "another text"], model="text-embedding-3-small")
print([len(vector or ()) for vector in results.embeddings], results.cost)

"""Embeddings: texts are sent many in a request; a text that the provider refuses fails alone; no vector is made up."""

from llmbatch import create_embeddings_batch

results = create_embeddings_batch(["a text", "another text"], model="text-embedding-3-small")
print([len(vector or ()) for vector in results.embeddings], results.cost)

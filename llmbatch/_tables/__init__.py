"""Tables of requests: the rows of a frame or a file as requests, and their answers as further columns of it.

Imports of pandas, polars, pyarrow and the like happen when a table is there; nothing here sends anything.
"""

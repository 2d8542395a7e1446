"""Utilities that know nothing about LLMs: the background event loop, fan-out, checks, files, identity, templates.

Nothing here imports from another folder of llmbatch.
"""

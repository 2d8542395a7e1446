"""What knows no LLM: fan-out, the background loop, checks, files, identity, rows as plain dicts, templates.

Nothing here imports from another folder of llmbatch, or says what a provider is.
"""

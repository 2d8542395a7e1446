"""What is made of rows for people and other programs: tables, files, statistics, the report.

Nothing here sends a request.
"""

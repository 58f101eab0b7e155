"""Benchmarks that run in a process of their own, under any interpreter that has numpy and their provider.

Nothing here imports the rest of the project: an engine's interpreter need not have it, nor its libraries.
"""

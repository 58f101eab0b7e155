"""Arithmetic only: plain numbers in, plain numbers out.

Every function states its equation, units, source and a worked Kimi K2.5 example that runs as a doctest.
"""

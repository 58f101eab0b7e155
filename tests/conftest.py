"""Settings of every test."""

from __future__ import annotations

from hypothesis import settings

# What runs in the tests' subprocesses is no test itself.
collect_ignore_glob = ["support/*"]

# A slow machine is no failure. (Where CI is set, Hypothesis is reproducible by its own profile, the parent here.)
settings.register_profile("moeplan", settings(), deadline=None)
settings.load_profile("moeplan")

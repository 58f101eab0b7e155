"""Micro-benchmarks of the kernels that decide a plan, and the types in which planner and benchmark name a kernel."""

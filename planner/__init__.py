"""Request to plan: candidates, memory ledgers, fit, speed, rank. Pure functions over facts; no I/O in the search."""

"""Facts of a machine, each with its provenance. Nothing here plans."""

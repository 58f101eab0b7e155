"""Facts and the readers of facts: models, hardware, workloads, prices. Every fact carries its source."""

"""Prints the metrics that vLLM's own code makes of a KV cache: `vllm:cache_config_info` of two engines."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import prometheus_client
from vllm.config import CacheConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger

config = CacheConfig(block_size=16)
config.num_gpu_blocks = int(sys.argv[1])
if len(sys.argv) > 2:
    config.kv_cache_size_tokens = int(sys.argv[2])
logger = SimpleNamespace(_gauge_cls=prometheus_client.Gauge, engine_indexes=[0, 1])
PrometheusStatLogger.log_metrics_info(logger, "cache_config", config)
print(prometheus_client.generate_latest().decode())

#!/usr/bin/env bash
# Model A, int4 by org, on vllm 0.18.0.
# Written by moeplan 0.1.0.
# Warning: --trust-remote-code runs Python of the model's repository: pin a revision that you have read, with --revision.
set -euo pipefail

export NCCL_DEBUG=WARN

exec vllm serve org/Model-A \
  --tensor-parallel-size 8 \
  --trust-remote-code \
  --host 127.0.0.1

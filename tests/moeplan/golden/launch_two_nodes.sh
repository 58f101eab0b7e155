#!/usr/bin/env bash
# Model A, int4 by org, on vllm 0.18.0.
# Node 0 of 2; README.md says how to start them together.
# Written by moeplan 0.1.0.
# Warning: 0.0.0.0: whoever reaches this address can use the server, unless VLLM_API_KEY is set.
set -euo pipefail

: "${HEAD_ADDRESS:?set it to the address of node 0 that the other nodes reach}"
export A='x y'
export B='it'"'"'s'

exec vllm serve org/Model-A \
  --tensor-parallel-size 8 \
  --nnodes 2 \
  --node-rank 0 \
  --master-addr "${HEAD_ADDRESS}" \
  --host 0.0.0.0
#!/usr/bin/env bash
# Model A, int4 by org, on vllm 0.18.0.
# Node 1 of 2; README.md says how to start them together.
# Written by moeplan 0.1.0.
# Warning: 0.0.0.0: whoever reaches this address can use the server, unless VLLM_API_KEY is set.
set -euo pipefail

: "${HEAD_ADDRESS:?set it to the address of node 0 that the other nodes reach}"
export A='x y'
export B='it'"'"'s'

exec vllm serve org/Model-A \
  --tensor-parallel-size 8 \
  --nnodes 2 \
  --node-rank 1 \
  --dist-init-addr "${HEAD_ADDRESS}":5000 \
  --headless

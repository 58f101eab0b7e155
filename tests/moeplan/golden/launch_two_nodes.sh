#!/usr/bin/env bash
# Model A, int4 by org,
# on vllm 0.18.0. Written by moeplan 0.1.0.
# Warning: 0.0.0.0: whoever reaches this address can use the server, which asks for no key.
set -euo pipefail

export A='x y'
export B='it'"'"'s'

node="${1:-${NODE_RANK:?give the number of this node, 0 to 1, as argument or in NODE_RANK}}"
HEAD_ADDRESS="${HEAD_ADDRESS:?set it to the address of node 0 that the other nodes reach}"
case "$node" in
0)
  exec vllm serve org/Model-A \
    --tensor-parallel-size 8 \
    --nnodes 2 \
    --node-rank 0 \
    --master-addr "${HEAD_ADDRESS}" \
    --host 0.0.0.0
  ;;
1)
  exec vllm serve org/Model-A \
    --tensor-parallel-size 8 \
    --nnodes 2 \
    --node-rank 1 \
    --dist-init-addr "${HEAD_ADDRESS}":5000 \
    --headless
  ;;
*)
  echo "there is no node $node; 0 to 1 are allowed" >&2
  exit 2
  ;;
esac

#!/usr/bin/env bash
# Training speed on one GPU without network: Qwen3-0.6B- and 4B-shaped models with random weights, bfloat16.
# Writes benchmarks/results/gpu-SIZE.json. Set PYTHON to an environment with torch (CUDA), transformers and trl.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
mkdir -p "$out"
for size in ${SIZES:-0.6b 4b}; do
  pairs=32 tokens=32768
  if [ "$size" = 4b ]; then pairs=16 tokens=8192; fi
  "$python" benchmarks/train_speed.py --size "$size" --pairs "$pairs" --batch-tokens "$tokens" --steps 6 --rounds 3 --json \
    | tee "$out/gpu-$size.txt"
  tail -n 1 "$out/gpu-$size.txt" > "$out/gpu-$size.json"
done

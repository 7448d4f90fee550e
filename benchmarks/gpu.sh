#!/usr/bin/env bash
# All that is open for a GPU, in under nine minutes: into results/.
# Needs TensorFlow's CUDA build, and JAX's for the kernel.
# Without -e: a part that fails or takes too long must not end the parts after it.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
rounds=${ROUNDS:-7}
steps() {
  timeout 150 "$python" benchmarks/steps.py --networks resnet softmax straight_through \
    --precisions float32 tf32 bfloat16 --batch-size "$1" --rounds "$rounds" --output "results/steps-gpu-$1"
}
steps 128
KERAS_BACKEND=jax timeout 150 "$python" benchmarks/speed.py --only kernel --rounds "$rounds" --output results/speed-kernel
timeout 60 "$python" benchmarks/speed.py --only input --rounds "$rounds" --output results/speed-input-gpu
steps 512

#!/usr/bin/env bash
# All that is open for a GPU, in under eight minutes: into results/. First whether the kernel computes what it should.
# Needs TensorFlow's CUDA build, and JAX's for the kernel.
# Without -e: a part that fails or takes too long must not end the parts after it. Each writes what it has as it goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
rounds=${ROUNDS:-7}
steps() {
  timeout "$2" "$python" benchmarks/steps.py --networks resnet softmax straight_through \
    --precisions float32 tf32 bfloat16 --batch-size "$1" --rounds "$rounds" --output "results/steps-gpu-$1"
}
KERAS_BACKEND=jax timeout 60 "$python" -m pytest tests/inference/test_routed_units.py -k by_hand_on_a_gpu
steps 128 120
KERAS_BACKEND=jax timeout 110 "$python" benchmarks/speed.py --only kernel --rounds "$rounds" --output results/speed-kernel
timeout 50 "$python" benchmarks/speed.py --only input --rounds "$rounds" --output results/speed-input-gpu
steps 512 130

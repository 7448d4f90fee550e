"""Times a training step of one network, in one process: for `steps.py`, which takes turns between several.

    python benchmarks/step_worker.py resnet float32 128

Prints a line when it is ready. Each line that it reads is a turn: it takes the number of steps in that line and prints
their mean time, in seconds, and the peak of memory so far, in MiB: the GPU's that it took, else the process's.
"""

# No `import clone`: which checkout is measured, `steps.py` says by PYTHONPATH, and that would come before it.
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 3


def main(network: str, precision: str, batch_size: str) -> None:
    """Takes turns until the standard input ends."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # other workers are on the same GPU
    step = (torch_step if network == "torch" else keras_step)(network, precision, int(batch_size))
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = (time.perf_counter() - start) / int(line)
        print(seconds, peak_mib(network), flush=True)


def peak_mib(network: str) -> float:
    """The most memory that was taken so far, in MiB: of the GPU where there is one, else of the process."""
    if network == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keras_step(name: str, precision: str, batch_size: int) -> Callable[[], float]:
    """A training step in TensorFlow, on one batch that stays where it is; on a GPU compiled by XLA."""
    import keras
    import numpy as np
    import tensorflow as tf

    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    network = named_network(name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    compiled = on_gpu and not name.startswith("fixed_routes")
    network.compile(keras.optimizers.SGD(0.0, momentum=0.9), loss, jit_compile=compiled)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, batch_size)
    network.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    # To read the loss is to wait for the step.
    return lambda: float(network.train_function(batches)["loss"])


def named_network(name: str) -> Any:
    """One of `NETWORKS` or `POOL_FORMS` of `steps.py`."""
    if name == "keras":
        from plain_resnet import keras_resnet

        return keras_resnet()
    import reset_keras as rk
    from reset_keras.training import with_fixed_routes
    from timed_networks import routed

    if name.startswith("fixed_routes"):
        return with_fixed_routes(routed((1, 2) if name.endswith("skipped") else (0, 0)))
    if name == "resnet":
        return rk.models.resnet38()
    if name == "every_budget":
        return rk.resnet_to_reset(rk.models.resnet38(), rk.HaltingController(1), rk.HardScorer(sampled=False))
    if name == "straight_through":
        return rk.models.reset38(scorer="gumbel_st")
    scorer, _, execution = name.partition("/")
    network = rk.models.reset38(scorer=scorer)
    for module in network.routed_modules:
        module.pool.execution = execution or "auto"
    return network


def torch_step(_: str, precision: str, batch_size: int) -> Callable[[], float]:
    """A training step in PyTorch; with bfloat16 by autocast, which keeps variables and losses in float32."""
    import torch

    from plain_resnet import torch_resnet38

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torch_resnet38().to(device)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    # Twice the weight of Keras's regularizer L2(w), whose gradient is 2 w times the kernel.
    optimizer = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9, weight_decay=2e-4)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = network(images)
        loss = torch.nn.functional.cross_entropy(outputs.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main(*sys.argv[1:])

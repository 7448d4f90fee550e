"""Runs recipes one after the other in one process, each as `python recipes/NAME.py FLAGS` would."""

import functools
import gc
import json
import pathlib
import runpy
import sys
import time
import traceback

import keras
import tensorflow as tf

from reset_keras.inference.costs import timing


def wait_for(network: pathlib.Path, seconds: float = 120.0) -> None:
    """Waits for a network that another process may still be training; if it stays away, the recipe says so."""
    deadline = time.monotonic() + seconds
    while not network.exists() and time.monotonic() < deadline:
        time.sleep(0.5)


if __name__ == "__main__":
    root, commands = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    recipes = pathlib.Path(__file__).parents[1] / "recipes"
    sys.path.insert(0, str(recipes))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # they compile much, compute little
    gc.freeze()  # modules stay: each collection would walk through all of TensorFlow
    # One turn each: how times are measured has its own tests.
    timing.interleaved_times = functools.partial(timing.interleaved_times, rounds=1, round_seconds=1e-3)
    for name, flags in commands.items():
        sys.argv = [f"{name}.py", "--workdir", str(root / name), *flags]
        print(f"=== {name}", flush=True)
        keras.backend.clear_session()
        for flag in flags:
            if flag.endswith(".keras"):
                wait_for(pathlib.Path(flag))
        try:
            runpy.run_path(str(recipes / f"{name}.py"), run_name="__main__")
        except (Exception, SystemExit):
            traceback.print_exc(file=sys.stdout)

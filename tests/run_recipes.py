"""Runs recipes one after the other in one process, each as `python recipes/NAME.py FLAGS` would."""

import functools
import gc
import json
import pathlib
import runpy
import sys
import traceback

import keras
import tensorflow as tf

from reset_keras.inference.costs import timing

if __name__ == "__main__":
    root, commands = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    recipes = pathlib.Path(__file__).parents[1] / "recipes"
    sys.path.insert(0, str(recipes))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # they compile much, compute little
    gc.freeze()  # modules stay: each collection would walk through all of TensorFlow
    gc.set_threshold(50_000, 20, 20)
    timing.interleaved_times = functools.partial(timing.interleaved_times, rounds=1, round_seconds=1e-3)
    for name, flags in commands.items():
        sys.argv = [f"{name}.py", "--workdir", str(root / name), *flags]
        print(f"=== {name}", flush=True)
        keras.backend.clear_session()
        try:
            runpy.run_path(str(recipes / f"{name}.py"), run_name="__main__")
        except (Exception, SystemExit):
            traceback.print_exc(file=sys.stdout)

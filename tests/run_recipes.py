"""Runs recipes one after the other in one process, each as `python recipes/NAME.py FLAGS` would."""

import gc
import json
import pathlib
import runpy
import sys
import traceback

import keras
import tensorflow as tf

if __name__ == "__main__":
    root, commands = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    recipes = pathlib.Path(__file__).parents[1] / "recipes"
    sys.path.insert(0, str(recipes))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # they compile much, compute little
    gc.freeze()  # modules stay: each collection would walk through all of TensorFlow
    for name, flags in commands.items():
        sys.argv = [f"{name}.py", "--workdir", str(root / name), *flags]
        print(f"=== {name}", flush=True)
        keras.backend.clear_session()
        try:
            runpy.run_path(str(recipes / f"{name}.py"), run_name="__main__")
        except (Exception, SystemExit):
            traceback.print_exc(file=sys.stdout)

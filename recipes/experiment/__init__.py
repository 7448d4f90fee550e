"""What every recipe needs: settings from the command line, networks, trainings, and what surrounds a run."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(1, str(Path(__file__).parents[2]))  # the library of this clone, whichever one is installed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On CPUs without AVX-512 VNNI or the like TensorFlow leaves it out by itself, and a training step takes twice the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    import reset_keras as rk
else:

    class _Library:
        """The library, imported where it is first used: `--help` is answered without TensorFlow."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("reset_keras"), name)

    rk = _Library()

__all__ = ["rk"]

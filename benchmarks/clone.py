"""What benchmarks import first: so they measure the clone that they lie in, whichever one is installed."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Behind the script's own folder, where benchmarks find each other, and before everything that is installed.
sys.path[1:1] = [str(ROOT), str(ROOT / "recipes")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

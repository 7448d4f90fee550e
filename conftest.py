"""Set-up of the test session: quiet TensorFlow, and what the docstrings' examples may use."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # tests compile much and compute little
# What one process of a run has compiled, and what earlier runs have, need not be compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import pytest

import reset_keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # for the same reason


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict) -> None:
    names = {name: getattr(reset_keras, name) for name in reset_keras.__all__}
    doctest_namespace.update(keras=keras, pathlib=pathlib, **names)


@pytest.fixture(autouse=True, scope="module")
def _seeded_module() -> None:
    """What a file's tests share is made before the fixture of a test: it must not depend on the files before."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(0)

"""Set-up of the test session: quiet TensorFlow, and what the docstrings' examples may use."""

import gc
import os
import pathlib
from importlib import metadata
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as recipes set it, which tests run in processes and here
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # tests compile much and compute little
# What one process of a run has compiled, and what earlier runs have, need not be compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if os.environ.get("KERAS_BACKEND") == "jax" and metadata.version("jaxlib").startswith("0.10."):
    # With its older emitters XLA compiles in a third of the time. An XLA that does not know the flag ends the process.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

import keras
import pytest
from keras.src.utils import naming

import reset_keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # for the same reason


def pytest_collection_finish() -> None:
    """What is imported by now stays, so that no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


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
    """Sets all seeds but TensorFlow's, which is that of the file, and names new layers as in every other test.

    Both spare TensorFlow's kernels, a quarter of the time of the layers' tests: its seed drops them all, and each
    variable's name has its own.
    """
    with mock.patch("tensorflow.random.set_seed"):
        keras.utils.set_random_seed(0)
    naming.reset_uids()

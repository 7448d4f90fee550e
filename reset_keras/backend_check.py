"""Importing this module fails on a Keras backend that the package has no training step for."""

import keras

if keras.backend.backend() not in ("tensorflow", "jax"):
    raise ImportError(
        "reset_keras runs on Keras's backends tensorflow and jax: set KERAS_BACKEND to one of them. "
        f"Received: {keras.backend.backend()}"
    )

"""Layers made again, of the config of others."""

import inspect
from typing import Any

import keras


def layer_like(layer: Any, config: dict[str, Any] | None = None) -> Any:
    """A new layer, with new weights, of a layer's class and config.

    Args:
        layer: A layer. Functions that it was given, such as an activation, need not be registered with Keras.
        config: Another config. Default: the layer's.

    Raises:
        ValueError: Keras cannot make the layer of its config.

    Examples:
        >>> layer_like(keras.layers.Dense(3)).units
        3
    """
    try:
        config = layer.get_config() if config is None else config
        return type(layer).from_config(config | own_functions(layer, config))
    except (TypeError, ValueError) as error:
        raise not_made(layer, error) from error


def own_functions(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Those settings of a layer that are functions which Keras would not find by what the config holds of them.

    By the name it would find none, or, for one of the name of an activation of Keras, that activation.
    """
    found = {name: getattr(layer, name, None) for name in config}
    return {name: value for name, value in found.items() if _is_function(value) and not _is_found(value)}


def not_made(layer: Any, error: Exception) -> ValueError:
    """What to raise where Keras cannot make a layer of its config: its own message holds the whole config."""
    reason = str(error).rsplit("Exception encountered: ", 1)[-1].split(" Full object config", 1)[0]
    return ValueError(
        f"Layer '{layer.name}' of the type {type(layer).__name__} cannot be copied by its config: {reason}"
    )


def _is_function(value: Any) -> bool:
    is_other = inspect.isclass(value) or inspect.ismethod(value) or hasattr(value, "get_config")
    return callable(value) and not is_other


def _is_found(function: Any) -> bool:
    name = getattr(function, "__name__", None)
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    if package in ("keras", "tensorflow") and hasattr(keras.activations, str(name)):
        return True
    return name is not None and (
        keras.saving.get_registered_object(keras.saving.get_registered_name(function)) is function
    )

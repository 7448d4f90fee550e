"""What is set for parts of a layer after they are made, for its config: Keras keeps it of outermost layers only."""

from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.keras_internals import all_layers


def frozen_parts(layer: keras.layers.Layer) -> list[int]:
    """Those of a layer's parts, itself the first and all at any depth, that are not trained.

    Examples:
        >>> model = keras.Sequential([keras.layers.ReLU(), keras.layers.ReLU(trainable=False)])
        >>> frozen_parts(model)
        [2]
    """
    return [index for index, part in enumerate(all_layers(layer)) if not part.trainable]


def part_settings(layer: keras.layers.Layer) -> dict[str, list[int]]:
    """Of a layer's parts those that are frozen, and those with fixed statistics, for its config; empty where none are.

    Examples:
        >>> unit = ResidualUnit(4)
        >>> unit.norm2.fixed_statistics = True
        >>> [all_layers(unit)[index].name for index in part_settings(unit)["fixed"]]
        ['norm2']
    """
    parts = all_layers(layer)
    fixed = [index for index, part in enumerate(parts) if getattr(part, "fixed_statistics", False)]
    return {name: found for name, found in (("frozen", frozen_parts(layer)), ("fixed", fixed)) if found}


def without_part_settings(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """A config without the `part_settings` in it, and these."""
    names = ("frozen", "fixed")
    others = {name: value for name, value in config.items() if name not in names}
    return others, {name: config[name] for name in names if config.get(name)}


def set_parts(layer: keras.layers.Layer, settings: dict[str, list[int]]) -> None:
    """Gives the parts of a layer what `part_settings` found in a layer of the same config."""
    if "frozen" in settings:
        freeze_parts(layer, settings["frozen"])
    if "fixed" in settings:
        for index, part in enumerate(all_layers(layer)):  # from the outside in: a pool tells its batch norms
            if hasattr(part, "fixed_statistics"):
                part.fixed_statistics = index in settings["fixed"]


class KeepsPartSettings:
    """A layer, all of whose parts are made in `__init__`, whose config keeps what is set for them."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **part_settings(self)}  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config, parts = without_part_settings(config)
        layer = super().from_config(config)  # type: ignore[misc]
        set_parts(layer, parts)
        return layer


def freeze_all_parts(layer: keras.layers.Layer) -> None:
    """Freezes all parts of a layer that is told so as it is made: Keras then tells only the layer itself.

    Examples:
        >>> pool = ResidualPool(2, trainable=False)
        >>> pool.norm1.trainable
        False
    """
    if not layer.trainable:
        for part in all_layers(layer)[1:]:  # on TensorFlow nothing happens where a layer is told what it knows
            part.trainable = False


def freeze_parts(layer: keras.layers.Layer, frozen: Sequence[int]) -> None:
    """Freezes what `frozen_parts` found in a layer of the same config, and nothing else.

    Examples:
        >>> model = keras.Sequential([keras.layers.ReLU(), keras.layers.ReLU()])
        >>> freeze_parts(model, [2])
        >>> [part.trainable for part in model.layers]
        [True, False]
    """
    for index, part in enumerate(all_layers(layer)):  # from the outside in: what a layer is told, its parts are too
        part.trainable = index not in frozen

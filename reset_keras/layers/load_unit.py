"""Copying the weights of one unit into a pool's stacked variables."""

from typing import Any

import numpy as np
from keras import ops

from reset_keras.argument_checks import check_integer
from reset_keras.layers.residual_unit import ResidualUnit


def load_unit(pool: Any, index: int, unit: ResidualUnit) -> None:
    """Copies the weights of a built unit into unit `index` of a `ResidualPool`, as its method `load_unit` says."""
    check_integer("index", index, least=0, most=pool.num_units - 1)
    for kind, layer in (("pool", pool), ("unit", unit)):
        if not layer.built:
            raise ValueError(
                f"Weights are copied from a built unit to a built pool. Received: the {kind} '{layer.name}', which is "
                "not built. Call it first, or its `build` with the features' shape"
            )
    kernel2 = unit.conv2.kernel
    if pool.shared == "second" and index > 0 and not _are_equal(pool.kernel2, kernel2):
        raise ValueError(
            "The units of a pool with shared='second' have one second kernel, that of unit 0, which is loaded "
            f"first. Received: unit {index} with another kernel. Use shared='none' to keep the units' own"
        )
    _assign_part(pool.kernel1, index, pool.num_units, unit.conv1.kernel)
    place, places = (0, 1) if pool.shared == "second" else (index, pool.num_units)
    _assign_part(pool.kernel2, place, places, kernel2)
    for ours, theirs in ((pool.norm1, unit.norm1), (pool.norm2, unit.norm2)):
        for name in ("gammas", "betas", "moving_means", "moving_variances"):
            sources, targets = getattr(theirs, name), getattr(ours, name)
            if len(sources) not in (1, len(targets)):
                raise ValueError(
                    f"A unit with {name} for {len(sources)} iterations does not fit a pool that keeps them for "
                    f"{len(targets)}. Build the unit with num_iterations=1 or {len(targets)}."
                )
            for k, target in enumerate(targets):
                _assign_part(target, index, pool.num_units, sources[k if len(sources) > 1 else 0])


def _are_equal(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def _assign_part(stacked: Any, index: int, num_units: int, part: Any) -> None:
    """Writes `part` over the `index`-th of `num_units` equal slices of the last axis of `stacked`."""
    values, new = np.array(ops.convert_to_numpy(stacked)), ops.convert_to_numpy(part)
    width = values.shape[-1] // num_units
    target = values[..., index * width : (index + 1) * width]
    if target.shape != new.shape:
        raise ValueError(
            f"Weights of the shape {new.shape} do not fit a unit of this pool, which has {target.shape}. "
            "The unit must have the pool's number of channels, and a stride of 1."
        )
    target[...] = new
    stacked.assign(values)

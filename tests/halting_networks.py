"""Networks whose images halt, by ACT or SACT."""

import keras
import numpy as np

import reset_keras as rk
from frozen import IMAGES as INPUTS
from networks import randomize, spread_scores


def in_order(units=4):
    return {"controller": rk.FixedController(units + 1, range(units)), "scorer": "hard", "allowed": "sequential"}


def again_and_again(iterations=4):
    """IamNN: one unit, until halted."""
    return {"controller": rk.FixedController(2, [0] * iterations), "scorer": "hard"}


def numpy_of(x):
    return keras.ops.convert_to_numpy(x)


def halting_network(halting="act", images=INPUTS, **options):
    """Three units in order, or any others, halting at different iterations."""
    for seed in range(20):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
        x, routes = rk.ReSet(3, 3, **(options or in_order(3)), halting=halting, return_routes=True)(x)
        outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
        model = randomize(rk.RoutedModel(inputs, outputs, routes=[routes]), seed)
        spread_scores(model.routed_modules[0], model.layers[1](images))
        iterations = np.array(model(images, return_routes=True).routes[0]["active"]).sum(axis=1)
        if len(np.unique(iterations[:7])) > 2:
            return model
    raise AssertionError


def routes_of(model):
    """As `predict_routes` returns them, which would compile the network first."""
    routes = model(INPUTS, training=False, return_routes=True).routes
    return [{name: numpy_of(part) for name, part in module.items()} for module in routes]

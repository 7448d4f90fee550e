"""A module's training where it is known before a batch how many units each of its images runs, from the first on."""

from typing import Any

from keras import ops

from reset_keras.layers.image_groups import parted, permuted

Tensor = Any


def run_prefixes(module: Any, inputs: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Runs unit k in iteration k on the images that its controller prescribes, the first of a sorted batch.

    A slice in place of a mask: what an image does not run is not computed, and no shape depends on the routes.

    Args:
        module: A `ReSet` with a `HaltingController`.
        inputs: Tensor of shape `(batch, ..., channels)`.

    Returns:
        The features, of the inputs' shape, and of each iteration the logits, which the routes are made of, and the
        features that the controller's head sees; for an image that has halted, those that it had then.
    """
    order, counts = module.controller.depths_of_batch(ops.shape(inputs)[0])
    places = ops.argsort(order)
    x, halted = permuted(inputs, order, places), []
    seen: list[Tensor] = []
    # The batch is sorted from the deepest image on: what halts later stands before what has halted already.
    seen_at_end: list[Tensor] = []
    for k, count in enumerate(counts):
        features = module.controller.seen_features(x, k == 0)
        seen.append(ops.concatenate([features, *reversed(seen_at_end)]))
        seen_at_end.append(features[count:])
        x, halts = parted(x, count)
        halted.append(halts if k else module.activation(halts))  # which changes nothing the second time
        x = module.activation(x + module.pool.run_unit(k, x, iteration=k, training=True))
    x = permuted(ops.concatenate([x, *reversed(halted)]), places, order)
    stops = [ops.cast(places >= count, "float32") for count in counts]
    logits = [module.controller.chosen(stop, k) for k, stop in enumerate(stops)]
    return x, logits, [permuted(features, places, order) for features in seen]

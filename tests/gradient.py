"""A gradient on any backend."""

import keras
import numpy as np


def gradient_of(function, x):
    """Gradient of a scalar function of one array, as a numpy array."""
    if keras.backend.backend() == "jax":
        import jax

        return np.array(jax.grad(function)(x))
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


def layer_gradients(layer, x, upstream=None, **kwargs):
    """A layer's output, and gradients by `x` and by each trainable weight, as numpy arrays.

    They are those of the output's sum weighted by `upstream`, or else of its squared sum.
    """

    def total(output):
        return keras.ops.sum(keras.ops.square(output) if upstream is None else output * upstream)

    if keras.backend.backend() == "jax":
        import jax

        def differentiated(weights, x):
            # Not `stateless_call`: it leaves out Keras's call context, by which a layer's parts learn that they train.
            with keras.StatelessScope(list(zip(layer.trainable_variables, weights, strict=True))):
                output = layer(x, **kwargs)
            return total(output), output

        weights = [weight.value for weight in layer.trainable_variables]
        (by_weight, by_x), output = jax.grad(differentiated, argnums=(0, 1), has_aux=True)(weights, x)
        return np.array(output), np.array(by_x), [np.array(gradient) for gradient in by_weight]
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = layer(x, **kwargs)
        loss = total(output)
    sources = (x, [weight.value for weight in layer.trainable_variables])
    by_x, by_weight = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return output.numpy(), by_x.numpy(), [gradient.numpy() for gradient in by_weight]

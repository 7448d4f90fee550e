import keras

from reset_keras.models.module_calls import module_calls
from reset_keras.models.routed_model import RoutedModel


def parts_between(model: RoutedModel) -> list[keras.Model]:
    """What a model computes up to its first module, from each module to the next, and after the last.

    Args:
        model: A `RoutedModel` whose modules follow one another. The parts share its layers.

    Raises:
        ValueError: what follows a module also depends on something before it.
    """
    calls = module_calls(model.network)
    starts = [model.input, *(call.output_tensors[0] for call in calls)]
    ends = [*(call.input_tensors[0] for call in calls), model.output]
    try:
        return [_part(start, end) for start, end in zip(starts, ends, strict=True)]
    except ValueError as error:
        raise ValueError(
            "The modules must follow one another, and what follows a module must depend only on what it returns. "
            f"Received: '{model.name}', in which a path leads around a module"
        ) from error


def _part(start: keras.KerasTensor, end: keras.KerasTensor) -> keras.Model:
    if start is end:  # Keras finds no way from a layer's output to itself
        start = end = keras.Input(batch_shape=start.shape, dtype=start.dtype)
    return keras.Model(start, end)

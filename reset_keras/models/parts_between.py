import keras

from reset_keras.models.routed_model import RoutedModel


def parts_between(model: RoutedModel) -> list[keras.Model]:
    """What a model computes up to its first module, from each module to the next, and after the last.

    Args:
        model: A `RoutedModel` whose modules follow one another. The parts share its layers.
    """
    modules = model.routed_modules
    starts = [model.input, *(module.output[0] for module in modules)]
    ends = [*(keras.tree.flatten(module.input)[0] for module in modules), model.output]
    return [keras.Model(start, end) for start, end in zip(starts, ends, strict=True)]

import keras

from reset_keras.models.routed_model import check_routed


class RouteCallback(keras.callbacks.Callback):
    """A callback that looks at routes, or changes them: a model without any is refused before the first step."""

    def set_model(self, model: keras.Model) -> None:
        check_routed(model)
        super().set_model(model)

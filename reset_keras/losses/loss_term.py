from typing import Any

import keras


class LossTerm:
    """A term of a routed model's loss, whose weights become variables when a model is compiled with it.

    Args:
        **config: The arguments that a copy of the term, and a file, is made with.
    """

    def __init__(self, **config: Any) -> None:
        self._config = config
        self.variables: list[Any] = []

    def _variable(self, name: str, value: Any, **options: Any) -> Any:
        """A new variable among the term's, which no optimizer trains."""
        self.variables.append(keras.Variable(value, trainable=False, dtype="float32", name=name, **options))
        return self.variables[-1]

    def get_config(self) -> dict[str, Any]:
        # Not from the attributes, which are variables once the term has been built.
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LossTerm":
        return cls(**config)

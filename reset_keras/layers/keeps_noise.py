from typing import Any

from keras import ops


class KeepsNoise:
    """A layer whose files keep where its noise stands, so that a training that goes on draws what it would have drawn.

    Keras saves no state of a seed generator. The layer's is `seed_generator`.
    """

    seed_generator: Any

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)  # type: ignore[misc]
        store["seed_generator_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        # Keras refuses a store with more entries than the layer has weights.
        own = {key: store[key] for key in store.keys()}  # noqa: SIM118 - an HDF5 store is no mapping
        self.seed_generator.state.assign(own.pop("seed_generator_state")[()])
        super().load_own_variables(own)  # type: ignore[misc]

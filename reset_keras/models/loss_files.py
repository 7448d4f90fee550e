"""The variables of a model's loss terms, such as an entropy's weights and a reward's baseline, in its files."""

import json
from typing import Any

import keras
import numpy as np

from reset_keras.models.routed_loss import Terms

SETTINGS = "loss_settings"
"""Name, in a file, of what the terms were made with."""
LEARNED = ("skip_price", "skip_baseline", "skip_baseline_updates")


def loss_variables(terms: Terms) -> dict[str, Any]:
    """The variables of all terms, by their names."""
    return {variable.name: variable for term in terms for variable in getattr(term, "variables", ())}


def save_loss_variables(terms: Terms, store: Any) -> None:
    """Writes them, and how their terms were made; nothing without any, as a plain model takes no further names."""
    for name, variable in loss_variables(terms).items():
        store[name] = keras.ops.convert_to_numpy(variable)
    if settings := _settings(terms):
        store[SETTINGS] = np.frombuffer(json.dumps(settings).encode(), np.uint8)


def load_loss_variables(terms: Terms, store: Any) -> None:
    """Reads them, but leaves what the model was compiled with now if it is something else.

    What was learned is always taken along. Files of earlier versions do not say how their terms were made.
    """
    found = set(store.keys())  # an HDF5 store is no mapping
    now = _settings(terms)
    saved = json.loads(bytes(store[SETTINGS][()])) if SETTINGS in found else now
    for term, settings in now.items():
        for variable in getattr(terms, term).variables:
            if variable.name in found and (variable.name in LEARNED or saved.get(term) == settings):
                variable.assign(store[variable.name][()])


def _settings(terms: Terms) -> dict[str, Any]:
    """What the terms with variables were made with."""
    having = {name: term for name, term in terms._asdict().items() if getattr(term, "variables", ())}
    return {name: keras.saving.serialize_keras_object(term.get_config()) for name, term in having.items()}

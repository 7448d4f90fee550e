"""Inference with a trained network, and what it costs: MACs, and measured time."""

from reset_keras.inference.cost import compute_fractions, macs
from reset_keras.inference.frozen_network import FrozenNetwork, approximation_error, freeze
from reset_keras.inference.timing import interleaved_times, relative_inference_time

__all__ = [
    "FrozenNetwork",
    "approximation_error",
    "compute_fractions",
    "freeze",
    "interleaved_times",
    "macs",
    "relative_inference_time",
]

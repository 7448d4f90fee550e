"""Inference with a trained network, files of it for other programs, and what it costs: MACs, and measured time."""

from reset_keras.inference.costs.cost import Cost, cost
from reset_keras.inference.costs.macs import compute_fractions, macs, routed_macs
from reset_keras.inference.costs.timing import device_name, interleaved_times, relative_inference_time, static_baseline
from reset_keras.inference.exports.export import export
from reset_keras.inference.frozen.frozen_network import FrozenNetwork, approximation_error, freeze

__all__ = [
    "Cost",
    "FrozenNetwork",
    "approximation_error",
    "compute_fractions",
    "cost",
    "device_name",
    "export",
    "freeze",
    "interleaved_times",
    "macs",
    "relative_inference_time",
    "routed_macs",
    "static_baseline",
]

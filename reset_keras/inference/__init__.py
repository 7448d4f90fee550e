"""Inference with a trained network, files of it for other programs, and what it costs: MACs, and measured time."""

from reset_keras.inference.budgets.calibration import Budgets, calibrate
from reset_keras.inference.budgets.dial import set_compute
from reset_keras.inference.budgets.every_depth import outputs_at_every_depth
from reset_keras.inference.costs.cost import Cost, cost
from reset_keras.inference.costs.macs import compute_fractions, macs, routed_macs
from reset_keras.inference.costs.timing import device_name, interleaved_times, relative_inference_times, static_baseline
from reset_keras.inference.exports.export import export
from reset_keras.inference.frozen.frozen_network import FrozenNetwork, approximation_error, freeze

__all__ = [
    "Budgets",
    "Cost",
    "FrozenNetwork",
    "approximation_error",
    "calibrate",
    "compute_fractions",
    "cost",
    "device_name",
    "export",
    "freeze",
    "interleaved_times",
    "macs",
    "outputs_at_every_depth",
    "relative_inference_times",
    "routed_macs",
    "set_compute",
    "static_baseline",
]

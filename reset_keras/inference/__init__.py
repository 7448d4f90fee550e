"""Inference with a trained network, files of it for other programs, and what it costs: MACs, and measured time."""

from reset_keras.inference.cost import Cost, cost
from reset_keras.inference.export import export
from reset_keras.inference.frozen_network import FrozenNetwork, approximation_error, freeze
from reset_keras.inference.operations import RoutedMacs, compute_fractions, macs, routed_macs
from reset_keras.inference.timing import device_name, interleaved_times, relative_inference_time, static_baseline

__all__ = [
    "Cost",
    "FrozenNetwork",
    "RoutedMacs",
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

"""What a trained network costs: MACs, and measured time."""

from reset_keras.inference.cost import compute_fractions, macs
from reset_keras.inference.timing import relative_inference_time

__all__ = ["compute_fractions", "macs", "relative_inference_time"]

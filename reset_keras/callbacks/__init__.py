"""Callbacks that watch routes while a network is trained: they show them, warn, stop."""

from reset_keras.callbacks.epoch_tensorboard import EpochTensorBoard
from reset_keras.callbacks.hparams import write_hparams
from reset_keras.callbacks.route_history import RouteHistory
from reset_keras.callbacks.route_monitor import RouteMonitor
from reset_keras.callbacks.route_probe import RouteProbe
from reset_keras.callbacks.routing_warnings import RoutingWarning, RoutingWarnings
from reset_keras.callbacks.stop_on_nan import StopOnNaN
from reset_keras.callbacks.stopping import ComputeTarget, PolicyConvergence

__all__ = [
    "ComputeTarget",
    "EpochTensorBoard",
    "PolicyConvergence",
    "RouteHistory",
    "RouteMonitor",
    "RouteProbe",
    "RoutingWarning",
    "RoutingWarnings",
    "StopOnNaN",
    "write_hparams",
]

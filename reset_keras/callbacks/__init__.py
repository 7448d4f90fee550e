"""Callbacks: they watch routes along a training, show them, warn, stop it, and change what is trained and how."""

from reset_keras.callbacks.drop_curriculum import DropCurriculum
from reset_keras.callbacks.epoch_tensorboard import EpochTensorBoard
from reset_keras.callbacks.hold_compute import HoldCompute
from reset_keras.callbacks.hparams import write_hparams
from reset_keras.callbacks.phases import TwoPhase
from reset_keras.callbacks.route_history import RouteHistory
from reset_keras.callbacks.route_monitor import RouteMonitor
from reset_keras.callbacks.route_probe import RouteProbe
from reset_keras.callbacks.routing_warnings import RoutingWarnings
from reset_keras.callbacks.run_observer import RunObserver
from reset_keras.callbacks.schedules import EntropySchedule, TemperatureSchedule
from reset_keras.callbacks.stop_on_nan import StopOnNaN
from reset_keras.callbacks.stopping import PolicyConvergence, StopAtCompute
from reset_keras.layers.lost_routes import RoutingWarning

__all__ = [
    "DropCurriculum",
    "EntropySchedule",
    "EpochTensorBoard",
    "HoldCompute",
    "PolicyConvergence",
    "RouteHistory",
    "RouteMonitor",
    "RouteProbe",
    "RoutingWarning",
    "RoutingWarnings",
    "RunObserver",
    "StopAtCompute",
    "StopOnNaN",
    "TemperatureSchedule",
    "TwoPhase",
    "write_hparams",
]

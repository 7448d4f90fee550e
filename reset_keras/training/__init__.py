"""Training in stages: what a stage is, the pipeline that runs them, schedules, checkpoints."""

from reset_keras.training.devices.multihost import is_first_process, own_work_directory
from reset_keras.training.devices.precision import choose_precision, forget_networks, set_precision
from reset_keras.training.devices.strategy import get_strategy
from reset_keras.training.routes.fixing import check_hard_routes, with_fixed_routes
from reset_keras.training.routes.holding import hold_compute
from reset_keras.training.routes.imitation import imitate_routes, imitate_sequence
from reset_keras.training.routes.pruning import check_compute_target, prune_routes
from reset_keras.training.routes.teacher import HalfMirrored, mirror_averaged
from reset_keras.training.routes.trainable import (
    train_all_but_controllers,
    train_everything,
    train_last_modules,
    train_only_controllers,
)
from reset_keras.training.stages.checkpoint import Checkpoint
from reset_keras.training.stages.loading import load_network
from reset_keras.training.stages.optimizers import make_optimizer
from reset_keras.training.stages.pipeline import Pipeline
from reset_keras.training.stages.stage import Stage, Training
from reset_keras.training.stages.work_directory import DamagedRunError, WorkDirectory, read_config, read_result

__all__ = [
    "Checkpoint",
    "DamagedRunError",
    "HalfMirrored",
    "Pipeline",
    "Stage",
    "Training",
    "WorkDirectory",
    "check_compute_target",
    "check_hard_routes",
    "choose_precision",
    "forget_networks",
    "get_strategy",
    "hold_compute",
    "imitate_routes",
    "imitate_sequence",
    "is_first_process",
    "load_network",
    "make_optimizer",
    "mirror_averaged",
    "own_work_directory",
    "prune_routes",
    "read_config",
    "read_result",
    "set_precision",
    "train_all_but_controllers",
    "train_everything",
    "train_last_modules",
    "train_only_controllers",
    "with_fixed_routes",
]

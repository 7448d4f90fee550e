"""What recipes have in common: the settings of their networks, and how those are made and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiment import rk
from experiment.config import RecipeConfig, flag

SCHEDULES = ("paper", "cosine", "warmup_cosine")
DEFAULT_RATES = "0.1 for sgd, 0.2 for nesterov, 0.001 for adam"


class NetworkConfig(RecipeConfig):
    """Settings of a network and of how all its weights are trained."""

    weight_decay: float = flag(
        1e-4, "weight of the L2 regularizer on kernels; a network that is given keeps the one it has", least=0
    )
    label_smoothing: float = flag(
        0.0, "share of each label that is spread over all classes, where a network is trained", least=0, below=1
    )
    optimizer: str = flag("sgd", "optimizer where all weights are trained", choices=("sgd", "nesterov", "adam"))
    schedule: str = flag(
        "paper",
        "how learning rates change: paper, in steps; cosine, down to 0; warmup_cosine, up for a fifth of the training, "
        "then down to 0",
        choices=SCHEDULES,
    )
    validation: int | None = flag(
        None,
        "training images that are held out and tested on instead of the test images, to choose settings by; a network "
        "that is given may have been trained on them",
        unit="images",
        least=1,
    )


class UnitsConfig(NetworkConfig):
    """The setting of a network's size, where the recipe leaves it open."""

    units: tuple[int, ...] = flag((3, 3), "units, and iterations, of each module", paper=(5, 5, 5), least=1)


class ScratchConfig(NetworkConfig):
    """Settings of a training from scratch."""

    train_steps: int = flag(450, "length of the training", paper=64_000, unit="batches", least=1)
    rate: float | None = flag(None, f"learning rate at the start; none: {DEFAULT_RATES}", above=0)


class RoutedConfig(NetworkConfig):
    """Settings of networks that route."""

    clip_norm: float = flag(1.0, "largest norm of the gradient once the network is routed", above=0)
    entropy_across: float = flag(0.0, "weight of the entropy across images", unit="loss per nat", least=0)
    entropy_within: float = flag(0.0, "weight of the entropy within a policy", unit="loss per nat", least=0)


class ControllerConfig(RoutedConfig):
    """The setting of the controllers' kind, where the recipe leaves it open."""

    controller: str = flag("rnn", "kind of the controllers", choices=("rnn", "cnn"))


class StartConfig(UnitsConfig):
    """Settings of the trained network that a training begins with."""

    pretrained: str | None = flag(
        None, "a .keras file with a trained network, or a name in rk.models.PRESETS, instead of pretraining one"
    )
    pretrain_steps: int = flag(450, "length of pretraining", paper=64_000, unit="batches", least=1)
    pretrain_rate: float | None = flag(
        None, f"learning rate of pretraining at the start; none: {DEFAULT_RATES}", above=0
    )


class PretrainedConfig(RoutedConfig, StartConfig):
    """Settings of a training that begins with a trained network, and routes."""


class GumbelConfig(RoutedConfig):
    """Settings of trainings with Gumbel noise."""

    temperature: float = flag(1.0, "of the Gumbel-softmax, at the start of a training with soft scores", least=1e-4)
    final_temperature: float = flag(0.5, "of the Gumbel-softmax, from the end of such a training on", least=1e-4)


def new_resnet(config: NetworkConfig, dataset: rk.data.ImageDataset, units: Sequence[int]) -> rk.ResNet:
    """A new ResNet with a block for each unit, and the first block of each stage."""
    blocks = [count + 1 for count in units]
    return rk.ResNet(blocks, dataset.num_classes, dataset.image_shape, weight_decay=config.weight_decay)


def new_reset(
    config: ControllerConfig,
    dataset: rk.data.ImageDataset,
    units: Sequence[int],
    num_iterations: Sequence[int] | None = None,
    scorer: str = "softmax",
    controller_size: int | None = None,
) -> rk.ReSetNet:
    """A new ReSet, by default with as many iterations as units, and controllers of the layers' default size."""
    controller: Any = config.controller
    if controller_size is not None:  # each module gets one like it, with its own number of scores and iterations
        import keras

        regularizer = keras.regularizers.L2(config.weight_decay) if config.weight_decay else None
        if controller == "rnn":
            controller = rk.RNNController(1, hidden_size=controller_size, kernel_regularizer=regularizer)
        else:
            controller = rk.CNNController(1, 1, filters=controller_size, kernel_regularizer=regularizer)
    return rk.ReSetNet(
        units,
        num_iterations,
        dataset.num_classes,
        dataset.image_shape,
        controller,
        scorer,
        weight_decay=config.weight_decay,
    )


def load_pretrained(config: StartConfig, dataset: rk.data.ImageDataset) -> rk.ResNet | rk.ReSetNet | None:
    """The network of the given file, which must have the units of the config and fit the dataset; `None` without one.

    Raises:
        ValueError: the file is missing, damaged, or holds another network, or one with controllers of another kind.
    """
    if config.pretrained is None:
        return None
    model = rk.training.load_network(config.pretrained, config.units, dataset.image_shape, dataset.num_classes)
    kind = getattr(config, "controller", None)
    expected = {"rnn": rk.RNNController, "cnn": rk.CNNController}.get(str(kind), rk.Controller)
    for module in getattr(model, "routed_modules", []):
        if not isinstance(module.controller, expected):
            raise ValueError(
                f"--pretrained {config.pretrained}: the controller of '{module.name}' is of class "
                f"{type(module.controller).__name__}, and --controller is {kind}: give the kind that it is, or another "
                "network"
            )
    return model


def check_starts_from_resnet(config: StartConfig, dataset: rk.data.ImageDataset) -> None:
    """Raises `ValueError` if the network of the given file is no ResNet; where none is given, nothing is built."""
    if config.pretrained is not None:
        starting_resnet(config, dataset)


def starting_resnet(config: StartConfig, dataset: rk.data.ImageDataset) -> Any:
    """The ResNet that the run begins with, or, where it pretrains one, that before its training.

    Raises:
        ValueError: the network of the given file is no ResNet.
    """
    given = load_pretrained(config, dataset)
    given = new_resnet(config, dataset, config.units) if given is None else given
    if not isinstance(given, rk.ResNet):
        raise ValueError(f"--pretrained must be a ResNet here; {config.pretrained} is a {type(given).__name__}")
    return given


def to_reset(model: Any, controller: str) -> rk.ReSetNet:
    """A ResNet's blocks as units of a ReSet; a ReSet as it is."""
    return rk.resnet_to_reset(model, controller) if isinstance(model, rk.ResNet) else model


def only_controllers(model: Any, scorer: rk.Scorer | None = None) -> Any:
    """The model, under another scorer if one is given, with nothing but its controllers trainable."""
    model = model if scorer is None else rk.with_scorer(model, scorer)
    rk.training.train_only_controllers(model)
    return model

import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.argument_checks import check_integer, integers
from reset_keras.models import PRESETS, ReSetNet, ResNet, from_preset, with_dtype_policy
from reset_keras.training.routes.trainable import train_everything


def load_network(
    path: str | os.PathLike, units: Sequence[int], image_shape: tuple[int, int, int], num_classes: int
) -> ResNet | ReSetNet:
    """A trained network from a `.keras` file, or one that comes with the package, checked for what is built upon it.

    It computes under Keras's global dtype policy and is trained as a whole, whatever the file says.

    Args:
        path: The file, or a name of `rk.models.PRESETS`.
        units: Units of each module, which a ResNet must have as blocks beyond each stage's first.
        image_shape: Height, width and channels of an image.
        num_classes: Integer.

    Returns:
        The network, which is not compiled.

    Raises:
        ValueError: the file is missing, damaged, no ResNet or ReSetNet, or of another shape, or a number is out of its
            range.

    Examples:
        >>> load_network("resnet38_cifar10", (5, 5, 5), (32, 32, 3), 10).stage_blocks
        (6, 6, 6)
    """
    check_integer("num_classes", num_classes, least=1)
    for name, values, least in (("units", units, 0), ("image_shape", image_shape, 1)):
        if integers(values, least) is None:
            raise ValueError(f"`{name}` must hold integers from {least} up. Received: {name}={values!r}")
    network = read_network(path)
    if not isinstance(network, ResNet | ReSetNet):
        raise ValueError(f"{path} holds a {type(network).__name__}; expected a ResNet or a ReSetNet")
    network = with_dtype_policy(network, keras.config.dtype_policy())
    train_everything(network)
    expected = (tuple(units), tuple(image_shape), num_classes)
    found = (_units(network), network.backbone.input_shape, network.backbone.num_classes)
    if found != expected:
        raise ValueError(
            f"{path} is of another shape: units, image shape and classes are {found}, expected {expected}. "
            "Give `units`, `image_shape` and `num_classes` of that network (recipes: --units and --dataset)"
        )
    return network


def read_network(path: str | os.PathLike) -> Any:
    """The model of a `.keras` file, or one that comes with the package, of whatever kind, not compiled.

    Raises:
        ValueError: the file is missing, damaged, or holds no model.
    """
    if str(path) in PRESETS:
        return from_preset(str(path))
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}, nor a trained network of that name: these are {list(PRESETS)}")
    if not is_whole(path):
        raise ValueError(f"{path} is damaged or incomplete: no whole .keras file. Take another copy of it")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no network that can be loaded: {str(error).splitlines()[0]}") from error


def is_whole(path: pathlib.Path) -> bool:
    """Whether a file is a complete archive, as `.keras` files are.

    Keras says of a truncated file that it is not found, and of wrong bytes what the archive's reader says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _units(network: ResNet | ReSetNet) -> tuple[int, ...]:
    if isinstance(network, ReSetNet):
        return network.units
    return tuple(blocks - 1 for blocks in network.stage_blocks)

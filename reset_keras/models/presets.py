"""Trained networks that come with the package, by name."""

import dataclasses
import difflib
import hashlib
import pathlib
from typing import Any

import keras

from reset_keras.layers import HaltingController
from reset_keras.models.reset_net import ReSetNet
from reset_keras.models.resnet import ResNet

FOLDER = pathlib.Path(__file__).parents[1] / "presets"
CIFAR10_MEAN = (125.30692, 122.95039, 113.86539)
CIFAR10_STD = (62.99322, 62.08871, 66.7049)
"""Of each channel over CIFAR-10's training images, in units of a pixel's 0 to 255."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """What is known of a trained network, which takes images as `(pixels - mean) / std`. An entry of `PRESETS`.

    Args:
        description: String, one line.
        accuracy: Float, share of right answers on the 10,000 test images of CIFAR-10, in float32 on a CPU.
        compute_fraction: Float, its mean MACs on these images over those of ResNet-38.
        sha256: String, checksum of its file.
        command: String, the command that trained it.
        commit: String, the commit at which it was trained.
        hardware: String, the machine that trained it.
        date: String, when, as year-month-day.
        mean: Mean of each channel, of pixels from 0 to 255. Default: CIFAR-10's.
        std: Standard deviation of each channel. Default: CIFAR-10's.
    """

    description: str
    accuracy: float
    compute_fraction: float
    sha256: str
    command: str
    commit: str
    hardware: str
    date: str
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD


PRESETS = {
    "resnet38_cifar10": Preset(
        description="ResNet-38 (step 0 of the relaxation)",
        accuracy=0.9242,
        compute_fraction=1.0,
        sha256="4326c6e3f35fb1404109bf3ff8a444ca53a17a052a0ef2695d2cac2fdb87d5bd",
        command=(
            "python recipes/relaxation.py --preset paper --convergence-steps 3000 --hybrid-steps 2500 "
            "--finetune-steps 6000"
        ),
        commit="fd059ca",
        hardware="one NVIDIA H100 (80 GB), TensorFlow 2.21, Keras 3.15.1, float32 with TF32",
        date="2026-11-22",
    ),
    "reset38_softmax_cifar10": Preset(
        description="softmax-routed ReSet-38, trained from scratch for 20 passes (row 2 with the preset fast)",
        accuracy=0.9087,
        compute_fraction=4.415,
        sha256="f6d9539b96573149409909514eccfb84a3ed90ac8394a5d3e3420b5503ff62c7",
        command="python recipes/from_scratch.py --preset fast",
        commit="e105bb4",
        hardware="two cores of an AMD EPYC, bfloat16",
        date="2026-11-29",
    ),
    "reset38_efficient_cifar10": Preset(
        description="hard-routed ReSet-38, ResNet-38's route pruned, ResNet-38 as teacher, routes settled",
        accuracy=0.9282,
        compute_fraction=0.696,
        sha256="10b71464910bb6df4f8a5393beeceb120a1c0e796dd9475ce1adbd04e7a0109b",
        command=(
            "python recipes/efficient.py --preset paper --pretrained resnet38_cifar10, its stage `settled` run on "
            "2026-12-01 at c8e0fe0"
        ),
        commit="06f6a79",
        hardware="two cores of an AMD EPYC",
        date="2026-11-25",
    ),
    "reset38_any_budget_cifar10": Preset(
        description="ReSet-38 for every budget, whose images halt when it is sure, ResNet-38 as teacher; here whole",
        accuracy=0.9316,
        compute_fraction=1.0,
        sha256="010744d0c54ad48a60300e2837d4e906090699d54d7594c47a3bb9822a325007",
        command=(
            "python recipes/any_budget.py --preset fast --pretrained resnet38_cifar10 --budget-steps 128000 "
            "--early-exits 0.7 --last-unit 0.1 0.3 1.0, its stage `halting`"
        ),
        commit="93dbb3d",
        hardware="two cores of an AMD EPYC, bfloat16",
        date="2026-11-29",
    ),
    "reset20_halting_cifar10": Preset(
        description="1, 2 and 6 blocks, trained to halt after any of the last stage's, ResNet-38 as teacher",
        accuracy=0.9224,
        compute_fraction=0.319,
        sha256="f141d2a4bdf680162b02fecf0dfc29c758810636613e092d2a7ec55c7bcb6498",
        command=(
            "python recipes/one_budget.py --preset fast --pretrained resnet38_cifar10 --compute 0.35, after "
            "any_budget.py --budget-steps 128000 --early-exits 0 --last-unit 0.1 0.3 0.5, its stage `halting_0.35`"
        ),
        commit="82ec075",
        hardware="two cores of an AMD EPYC, bfloat16",
        date="2026-11-29",
    ),
}
"""The trained networks, by name; how each was made is in its entry, and told on the pages of `results`."""


def from_preset(
    name: str, num_classes: int | None = None, input_shape: tuple[int, int, int] | None = None
) -> ResNet | ReSetNet:
    """A trained network that comes with the package.

    | name | test accuracy on CIFAR-10 | compute, over ResNet-38's |
    |---|--:|--:|
    | `resnet38_cifar10`: ResNet-38 | 92.42 % | 1.000 |
    | `reset38_softmax_cifar10`: softmax-routed, trained from scratch | 90.87 % | 4.415 |
    | `reset38_efficient_cifar10`: hard-routed, ResNet-38's route pruned, with it as teacher | 92.82 % | 0.696 |
    | `reset38_any_budget_cifar10`: for every budget, here with all units | 93.16 % | 1.000 |
    | `reset20_halting_cifar10`: 1-2-6 blocks, images halt in the last stage, ResNet-38 as teacher | 92.24 % | 0.319 |

    They take images of shape `(batch, 32, 32, 3)` whose channels (red, green, blue; 0 to 255) were normalized with the
    mean and deviation of CIFAR-10's training images, as `rk.data.load_dataset("cifar10").normalize` does:
    `(pixels - [125.307, 122.95, 113.865]) / [62.993, 62.089, 66.705]`. The numbers are in `PRESETS[name].mean` and
    `.std`. Outputs are logits of the ten classes, in CIFAR-10's order.

    Args:
        name: A name of `PRESETS`.
        num_classes: Integer, classes of another task, also if it has ten: the classifier is new, all other weights are
            the preset's. A network for every budget must be calibrated anew. Default `None`: CIFAR-10's, with the
            preset's classifier.
        input_shape: Height, width and channels of other images; channels must be 3. Default `None`: `(32, 32, 3)`.

    Returns:
        A `ResNet` or a `ReSetNet` that is not compiled.

    Raises:
        ValueError: the name is unknown, the network's file is missing or not the one that was published, or images have
            another number of channels.

    Examples:
        >>> from reset_keras.models import PRESETS, from_preset
        >>> resnet = from_preset("resnet38_cifar10")
        >>> resnet.stage_blocks, PRESETS["resnet38_cifar10"].accuracy
        ((6, 6, 6), 0.9242)
        >>> reset = resnet_to_reset(resnet, scorer="gumbel_softmax")
        >>> from_preset("reset38_efficient_cifar10", num_classes=7, input_shape=(48, 48, 3)).output_shape
        (None, 7)
    """
    if name not in PRESETS:
        raise ValueError(f"`name` must be one of {list(PRESETS)}. Received: name={name!r}{_suggestion(name)}")
    path = FOLDER / f"{name}.keras"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != PRESETS[name].sha256:
        raise ValueError(
            f"{path} is not the network that was published: its SHA-256 must be {PRESETS[name].sha256}. "
            f"Received: {found}. Install the package anew, or take the file from a fresh clone "
            "(`git checkout -- reset_keras/presets`); load a network of your own with keras.models.load_model."
        )
    network = keras.models.load_model(path, compile=False)
    changes = {"num_classes": num_classes, "input_shape": input_shape}
    changes = {argument: value for argument, value in changes.items() if value is not None}
    return _for_another_task(network, changes) if changes else network


def _for_another_task(network: ResNet | ReSetNet, changes: dict[str, Any]) -> ResNet | ReSetNet:
    """A network of other classes or another image size: of other classes the classifier is new, the rest is kept."""
    other = type(network).from_config({**network.get_config(), **changes})
    channels, wanted = network.backbone.input_shape[-1], other.backbone.input_shape[-1]
    if wanted != channels:
        raise ValueError(
            f"This network takes images of {channels} channels. Received: input_shape={other.backbone.input_shape}"
        )
    for old, new in zip(network.layers, other.layers, strict=True):
        if "num_classes" not in changes:
            new.set_weights(old.get_weights())
        elif isinstance(getattr(new, "controller", None), HaltingController):
            new.pool.set_weights(old.pool.get_weights())  # all that its controller holds was found for the old classes
        elif new is not other.layers[-1]:
            new.set_weights(old.get_weights())
    return other


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(str(name), PRESETS, n=2)
    return f". Did you mean {' or '.join(map(repr, close))}?" if close else ""

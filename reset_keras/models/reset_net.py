import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_boolean
from reset_keras.layer_copies import layer_like
from reset_keras.layers import Controller, Halting, ReSet, ResidualPool, Scorer
from reset_keras.layers.frozen_parts import part_settings, set_parts, without_part_settings
from reset_keras.layers.named_controllers import named_controller
from reset_keras.layers.scorers import new_scorer
from reset_keras.models.backbone import Backbone, check_counts, under_policy
from reset_keras.models.policy_network import policy_network
from reset_keras.models.routed_model import RoutedModel

POOL_SETTINGS = ("execution", "fixed_statistics")
"""Of a pool what can be set after it is made."""
POOL_OPTIONS = ("per_iteration_affine", "shared")
"""Of a pool what is decided when it is made."""


@keras.saving.register_keras_serializable("reset_keras")
class ReSetNet(RoutedModel):
    """A residual network whose stages are ReSet modules (figure 3 of the paper).

    Each stage is one fixed block, which carries the stride and the change of width, and a ReSet. With as many units and
    iterations as a ResNet has further blocks, the ResNet is one of the routes through it (`resnet_to_reset`).

    Args:
        units: Sequence of integers, units of each stage's pool; 0 for a stage of only the fixed block. Default
            `(5, 5, 5)`.
        num_iterations: Sequence of integers, iterations of each stage's module, 0 where there are no units. Default
            `None`: as many as units.
        num_classes: Integer. Default 10.
        input_shape: Height, width and channels of an image, at least 8 by 8 pixels. Default `(32, 32, 3)`.
        controller: `"rnn"`, `"cnn"`, `"gate"`, `"policy"`, or a `Controller` of which each module gets a new one, or a
            list of a `Controller` for each module. Under `"policy"`, and a `PolicyController`, there is a policy
            network too, a small ResNet that sees the image once and serves all modules that have one. Default `"rnn"`.
        scorer: Name of a scorer, or a `Scorer` of which each module gets a new one. Default `"softmax"`.
        zero_unit: Boolean, whether pools have a zero unit. Default `True`.
        allowed: What an iteration may choose, `"any"`, `"sequential"`, or a mask, as in `ReSet`, the same in every
            module; or a list of these, one for each module. Default `"any"`.
        halting: `"act"`, `"sact"`, or an `ACT` or `SACT` of which each module gets a new one, as in `ReSet`. Default
            `None`.
        pool_options: Dict of further arguments of each `ResidualPool`, `"shared"` and `"per_iteration_affine"`, or
            `None`. Default `None`.
        policy_blocks: Sequence of integers, blocks of each stage of the policy network, if there is one, or `None`: one
            in each of as many stages. Default `None`.
        name: String, or `None`. Default `None`.
        **backbone: `width`, `shortcut`, `weight_decay` and `stem_pooling`, as in `ResNet`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`, normalized images.
        training: Boolean.
        return_routes: As in `RoutedModel`.

    Returns:
        Logits of shape `(batch, num_classes)`, float32.

    Raises:
        ValueError: an argument is out of its range, `units` and `num_iterations` do not fit each other, an option of
            pools or of the network is unknown, or `policy_blocks` are given without a policy network.

    Examples:
        >>> reset38 = ReSetNet(units=(5, 5, 5), scorer="gumbel_st")
        >>> tuple(reset38(keras.random.normal((2, 32, 32, 3))).shape)
        (2, 10)

        One unit a stage, applied five times, with other batch norms each time (Jastrzebski et al., 2017):

        >>> controller = FixedController(num_scores=1, route=[0] * 5)
        >>> options = {"per_iteration_affine": True}
        >>> unrolled = ReSetNet((1, 1, 1), (5, 5, 5), controller=controller, zero_unit=False, pool_options=options)
    """

    def __init__(  # noqa: PLR0913 - as of a `ReSet`
        self,
        units: Sequence[int] = (5, 5, 5),
        num_iterations: Sequence[int] | None = None,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        controller: "str | Controller | Sequence[Controller]" = "rnn",
        scorer: "str | Scorer" = "softmax",
        zero_unit: bool = True,
        allowed: Any = "any",
        *,
        halting: "str | Halting | None" = None,
        pool_options: dict[str, Any] | None = None,
        policy_blocks: Sequence[int] | None = None,
        name: str | None = None,
        **backbone: Any,
    ) -> None:
        units = check_counts("units", units, minimum=0)
        iterations = units if num_iterations is None else check_counts("num_iterations", num_iterations, minimum=0)
        if [count > 0 for count in units] != [count > 0 for count in iterations] or not any(units):
            raise ValueError(
                "`units` and `num_iterations` must have an entry for each stage, 0 in the same places, and not only 0. "
                f"Received: units={units}, num_iterations={iterations}"
            )
        zero_unit = check_boolean("zero_unit", zero_unit)
        pool_options = _checked_pool_options(pool_options)
        controllers = _for_each_module(controller, sum(map(bool, units)))
        masks = _masks_of_modules(allowed, len(controllers))
        policy_blocks = _checked_policy_blocks(policy_blocks, controllers, len(units))
        parts = Backbone.of(num_classes, input_shape, backbone)
        inputs = keras.Input(parts.input_shape, name="images")
        context = [policy_network(parts, policy_blocks)(inputs)] if policy_blocks else []
        x = parts.stem(inputs)
        routes: list[Any] = []
        for stage, (num_units, k) in enumerate(zip(units, iterations, strict=True)):
            x = parts.block(x, stage, 0)
            if not num_units:
                continue
            module = ReSet(
                ResidualPool(num_units, k, kernel_regularizer=parts.regularizer, name="pool", **pool_options),
                k,
                _new_controller(controllers[len(routes)], num_units, k, zero_unit, parts),
                new_scorer(scorer, stage),
                zero_unit,
                return_routes=True,
                allowed=masks[len(routes)],
                halting=_new_halting(halting),
                name=module_name(stage),
            )
            x, route = module(x, *(context if module.controller.takes_context else []))
            routes.append(route)
        super().__init__(inputs, parts.classifier(x), name, routes=routes)
        self.units, self.num_iterations = units, iterations
        self.zero_unit = zero_unit
        self.pool_options = pool_options
        self.policy_blocks = policy_blocks
        self.backbone = parts
        # As configs: they are only patterns of the modules' parts, and as attributes Keras would track them as layers.
        serialized = keras.saving.serialize_keras_object
        self._controller, self._scorer, self._halting = map(serialized, (controller, scorer, halting))

    def get_config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "num_iterations": self.num_iterations,
            "controller": self._controller,
            "scorer": self._scorer,
            "zero_unit": self.zero_unit,
            "allowed": self.allowed,
            "halting": self._halting,
            "pool_options": dict(self.pool_options),
            "policy_blocks": self.policy_blocks,
            **dataclasses.asdict(self.backbone),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            **part_settings(self),
            "pools": [{name: getattr(module.pool, name) for name in POOL_SETTINGS} for module in self.routed_modules],
        }

    @property
    def allowed(self) -> Any:
        """What iterations may choose: one entry for all modules where they agree, or a list of one for each."""
        found = [module.allowed.config for module in self.routed_modules]
        return found[0] if all(each == found[0] for each in found) else found

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ReSetNet":
        config, parts = without_part_settings(config)
        pools = config.pop("pools", [])
        with keras.saving.custom_object_scope(custom_objects or {}):
            for key in ("controller", "scorer", "halting"):
                config[key] = keras.saving.deserialize_keras_object(config.get(key))
            with under_policy(config.pop("dtype", None)):
                network = cls(**config)
        for module, settings in zip(network.routed_modules, pools, strict=False):  # files of version 0.1 have none
            for name, value in settings.items():
                setattr(module.pool, name, value)
        set_parts(network, parts)
        return network


def module_name(stage: int) -> str:
    """Name of the ReSet module of a stage, which is counted from 0."""
    return f"stage{stage}_reset"


def _checked_pool_options(options: dict[str, Any] | None) -> dict[str, Any]:
    options = {} if options is None else options
    if not isinstance(options, dict) or not set(options) <= set(POOL_OPTIONS):
        raise ValueError(f"`pool_options` must be a dict with keys from {POOL_OPTIONS}. Received: {options!r}")
    return dict(options)


def _for_each_module(controller: "str | Controller | Sequence[Controller]", count: int) -> "Sequence[str | Controller]":
    if isinstance(controller, str | Controller) or not isinstance(controller, Sequence):
        return [controller] * count
    if len(controller) != count or not all(isinstance(each, Controller) for each in controller):
        raise ValueError(
            f"A list of controllers must have a Controller for each of the {count} modules. Received: {controller!r}"
        )
    return controller


def _masks_of_modules(allowed: Any, count: int) -> list[Any]:
    """What each module allows: the same, or what a list has for each."""
    if not isinstance(allowed, list | tuple) or not all(map(_is_entry, allowed)):
        return [allowed] * count
    if len(allowed) != count:
        raise ValueError(
            f"A list for `allowed` must have an entry for each of the {count} modules. Received: {len(allowed)} entries"
        )
    return list(allowed)


def _is_entry(value: Any) -> bool:
    """Whether it says what a module allows: a name, or a mask, which is a list of rows. A row itself does not."""
    is_list = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return isinstance(value, str) or (is_list and len(value) > 0 and isinstance(value[0], list | tuple | np.ndarray))


def _checked_policy_blocks(
    blocks: Any, controllers: "Sequence[str | Controller]", num_stages: int
) -> tuple[int, ...] | None:
    """Blocks of each stage of the policy network; `None` where there is none."""
    if any(each == "policy" or getattr(each, "takes_context", False) for each in controllers):
        return check_counts("policy_blocks", (1,) * num_stages if blocks is None else blocks)
    if blocks is not None:
        raise ValueError(
            f"`policy_blocks` needs controller='policy'. Received: policy_blocks={blocks!r}, "
            f"controller={controllers[0]!r}"
        )
    return None


def _new_controller(
    controller: "str | Controller", num_units: int, num_iterations: int, zero_unit: bool, parts: Backbone
) -> Controller:
    num_scores = num_units + int(zero_unit)
    if not isinstance(controller, Controller):
        return named_controller(controller, num_scores, num_iterations, zero_unit, parts.regularizer)
    config = {**controller.get_config(), "num_scores": num_scores, "name": "controller"}
    sizes = {"num_iterations": num_iterations, "num_classes": parts.num_classes}
    return layer_like(controller, config | {name: size for name, size in sizes.items() if name in config})


def _new_halting(halting: "str | Halting | None") -> "str | Halting | None":
    """A new one for each module, which then sets its number of iterations."""
    if not isinstance(halting, Halting):
        return halting
    return layer_like(halting, {**halting.get_config(), "num_iterations": None, "name": "halting"})

"""Training units along the routes of controllers that are not trained.

Routes move a little, as the features do that controllers look at; `HoldCompute` corrects what they cost.
"""

import keras

from reset_keras.layers import GumbelSTScorer, HaltingController, HardScorer, ResidualPool
from reset_keras.models import RoutedModel, with_scorer
from reset_keras.models.routed_model import check_routed
from reset_keras.training.routes.trainable import train_all_but_controllers


def with_fixed_routes(model: RoutedModel) -> RoutedModel:
    """A model of the same weights whose units are trained along the routes that a hard-routed model takes.

    Nothing is sampled and the controllers are not trained, so a training step runs what inference runs: one unit, or
    none, for an image and iteration. Pools of residual units compute only these (`execution="chosen"`), with batch
    norms that keep the statistics that they have, so that a step costs what the routes cost and not what the pools do;
    their scales and offsets are trained.

    A file keeps all of this. To train everything again, give the model another scorer (`with_scorer`) and make the
    controllers trainable (`train_everything`).

    Args:
        model: A `RoutedModel` whose scorers choose one unit: `"gumbel_st"` or `"hard"`.

    Returns:
        A new model of the same class that is not compiled and shares no variable with `model`.

    Raises:
        ValueError: the model does not route, or a module's scores are not hard, or its controller is a
            `HaltingController`.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = with_fixed_routes(ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st"))
        >>> model.routed_modules[0].pool.execution
        'chosen'
    """
    check_hard_routes(model)
    fixed = with_scorer(model, HardScorer(sampled=False))
    train_all_but_controllers(fixed)
    for module in fixed.routed_modules:
        if isinstance(module.pool, ResidualPool):
            module.pool.execution = "chosen"
            module.pool.fixed_statistics = True
    return fixed


def check_hard_routes(model: keras.Model) -> None:
    """Raises `ValueError` unless `with_fixed_routes` can be applied to a model.

    Args:
        model: A `RoutedModel`.
    """
    check_routed(model)
    if any(isinstance(module.controller, HaltingController) for module in model.routed_modules):
        raise ValueError(
            "The units of a HaltingController are trained at all depths, and not along the routes that it takes: "
            f"compile and train the model as it is. Received: '{model.name}'"
        )
    scorers = [module.scorer for module in model.routed_modules]
    soft = {type(scorer).__name__ for scorer in scorers if not isinstance(scorer, GumbelSTScorer | HardScorer)}
    if soft:
        raise ValueError(
            f"Routes can be fixed where one unit is chosen, scorer='gumbel_st' or 'hard'. Received: {sorted(soft)}"
        )

"""What the flags of recipes say of rates, losses and schedules is what their trainings get."""

import pytest

import any_budget
import efficient
import from_scratch
import relaxation
import reset_keras as rk
import resnet_baseline
from experiment.config import parse


def trainings(recipe, config, *flags):
    """The trainings of a recipe's stages by name."""
    settings = parse(config, "", ["--units", "2", *flags])
    return {stage.name: stage.training for stage in recipe.stages(settings, rk.data.load_digits())}


def rates(training, *steps):
    """The learning rate at these steps."""
    return [float(training.compile_options()["optimizer"]._learning_rate(step)) for step in steps]


SCALED = ("--epochs-scale", "0.5")


@pytest.mark.parametrize(
    ("recipe", "config", "flags", "stage"),
    [
        (from_scratch, from_scratch.FromScratchConfig, ("--rate", "0.03", "--train-steps", "100"), "train"),
        (resnet_baseline, resnet_baseline.ResNetBaselineConfig, ("--rate", "0.03", "--train-steps", "100"), "resnet"),
        (relaxation, relaxation.RelaxationConfig, ("--pretrain-rate", "0.03", "--pretrain-steps", "100"), "pretrain"),
    ],
)
def test_rates_fall_along_the_scaled_length_and_labels_are_smoothed(recipe, config, flags, stage):
    training = trainings(recipe, config, *SCALED, "--label-smoothing", "0.2", *flags)[stage]
    assert training.steps == 50
    assert rates(training, 0, 24, 26, 37, 39) == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003])
    assert training.compile_options()["loss"].label_smoothing == 0.2


@pytest.mark.parametrize(
    ("recipe", "config", "flags", "stage"),
    [
        (efficient, efficient.EfficientConfig, ("--finetune-rate", "0.04", "--finetune-steps", "100"), "efficient"),
        (any_budget, any_budget.AnyBudgetConfig, ("--budget-rate", "0.04", "--budget-steps", "100"), "any_budget"),
    ],
)
def test_trainings_after_the_resnets_fall_to_zero_in_a_half_cosine(recipe, config, flags, stage):
    schedule = () if recipe is efficient else ("--schedule", "cosine")
    training = trainings(recipe, config, *SCALED, *flags, *schedule)[stage]
    assert rates(training, 0, 25, 50) == pytest.approx([0.04, 0.02, 0.0], abs=1e-8)


def test_temperature_and_entropy_change_as_the_flags_say():
    flags = ("--scorer", "gumbel_st", "--temperature", "2", "--final-temperature", "0.25")
    weights = ("--entropy-across", "0.3", "--entropy-within", "0.1")
    training = trainings(from_scratch, from_scratch.FromScratchConfig, *flags, *weights)["train"]
    callbacks = training.callbacks(10)
    entropy, temperature = callbacks["entropy"], callbacks["temperature"]
    assert (entropy.across, entropy.within, entropy.epochs) == (0.3, 0.1, 10)
    assert (temperature.first, temperature.last, temperature.epochs) == (2.0, 0.25, 10)
    of_loss = training.compile_options()["entropy"].get_config()
    assert (of_loss["across"], of_loss["within"]) == (0.3, 0.1)

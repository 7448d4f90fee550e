"""Recipes of networks for budgets: what their flags lead to, and mistakes in them, before anything is trained."""

import numpy as np
import pytest

import any_budget
import one_budget
import reset_keras as rk
import static_control
import systems
from experiment import budgets, config


def test_networks_of_one_budget_need_the_run_that_says_how_many_blocks(tmp_path):
    for recipe, kind in ((static_control, budgets.AfterAnyBudgetConfig), (one_budget, one_budget.OneBudgetConfig)):
        settings = config.parse(kind, "", ["--budgets", str(tmp_path)])
        with pytest.raises(ValueError, match=rf"received {tmp_path}, which has no stages/.* Run any_budget.py"):
            recipe.stages(settings, rk.data.load_digits())


def of_every_budget(folder, *units):
    """Flags of a run of any_budget.py, written to a folder, whose networks run so many units of each module."""
    resnet = rk.ResNet((2, 2), 10, (8, 8, 1), width=4)
    model = rk.resnet_to_reset(resnet, rk.HaltingController(1, 10), rk.HardScorer(sampled=False))
    for controller, depth in zip([module.controller for module in model.routed_modules], units, strict=True):
        controller.budgets.assign(np.array([[0.3, depth, 2.0]] + [[0.0, 0.0, 0.0]] * 63))
    for name in ("02-halting", "05-static"):
        (folder / "stages" / name).mkdir(parents=True)
        model.save(folder / "stages" / name / "model.keras")
    return ["--units", "1", "1", "--budgets", str(folder)]


@pytest.mark.slow
def test_numbers_that_stages_are_named_by_count_once_and_must_differ(tmp_path):
    given = of_every_budget(tmp_path, 1, 1)
    for recipe, kind, flags, name in (
        (any_budget, "AnyBudgetConfig", ["--compute"], "halting_1"),
        (static_control, "AfterAnyBudgetConfig", [*given, "--compute"], "static_control_1"),
        (one_budget, "OneBudgetConfig", [*given, "--compute"], "one_budget_1"),
        (systems, "SystemsConfig", ["--system", "static", "--strengths"], "static_1"),
    ):
        settings = config.parse(getattr(recipe, kind), "", [*flags, "1", "1"])
        names = [stage.name for stage in recipe.stages(settings, rk.data.load_digits())]
        assert names.count(name) == 1
        settings = config.parse(getattr(recipe, kind), "", [*flags, "0.9", "0.90000001"])
        with pytest.raises(ValueError, match=r"^--(compute|strengths): .*must differ. Received: 0.9 0.90000001"):
            recipe.stages(settings, rk.data.load_digits())


def test_a_static_control_has_units(tmp_path):
    settings = config.parse(budgets.AfterAnyBudgetConfig, "", of_every_budget(tmp_path, 0, 0))
    with pytest.raises(ValueError, match=r"^--compute must leave units to run; received 1, at which the network of"):
        static_control.stages(settings, rk.data.load_digits())


def test_one_budget_needs_units_of_the_last_module_and_a_share_of_the_batch(tmp_path):
    digits = rk.data.load_digits()
    flags = of_every_budget(tmp_path, 1, 0)
    settings = config.parse(one_budget.OneBudgetConfig, "", flags)
    with pytest.raises(ValueError, match=r"received 0.5, at which the network of --budgets .* runs none"):
        one_budget.stages(settings, digits)
    settings = config.parse(one_budget.OneBudgetConfig, "", [*flags, "--last-unit", "1.5"])
    with pytest.raises(ValueError, match=r"^--last-unit: .* Received: shares=\(1.0, 1.5\)"):
        one_budget.stages(settings, digits)


def test_a_run_keeps_the_blocks_that_it_was_begun_with(tmp_path, monkeypatch):
    workdir, digits = tmp_path / "run", rk.data.load_digits()
    flags = [*of_every_budget(tmp_path, 1, 1), "--compute", "0.9", "--workdir", str(workdir)]
    settings = config.parse(budgets.AfterAnyBudgetConfig, "", flags)
    network = rk.training.load_network(str(tmp_path / "stages/05-static/model.keras"), (1, 1), (8, 8, 1), 10)
    monkeypatch.setattr(rk.training, "load_network", lambda *_: network)

    def blocks(*units):
        for module, depth in zip(network.routed_modules, units, strict=True):
            module.controller.budgets.assign(np.array([[0.3, depth, 2.0]] + [[0.0, 0.0, 0.0]] * 63))
        return budgets.blocks_of_budgets(settings, digits, "static")

    workdir.mkdir()
    assert (blocks(0, 1), blocks(1, 1)) == ({0.9: (1, 2)}, {0.9: (2, 2)})  # nothing is trained yet
    (workdir / "config.json").touch()
    message = r"begun with other blocks .* by compute fraction: {'0.9': \[2, 2\]}, now {'0.9': \[1, 2\]}. Give another"
    with pytest.raises(ValueError, match=message):
        blocks(0, 1)
    assert blocks(1, 1) == {0.9: (2, 2)}
    (workdir / "blocks.json").unlink()  # as in runs of earlier versions
    assert blocks(0, 1) == {0.9: (1, 2)}


@pytest.mark.parametrize(
    ("units", "asked"), [((1, 1), 0.9), ((0, 1), 1.0)], ids=["of itself: it has all blocks", "all of it, which is less"]
)
def test_a_budget_is_a_share_of_the_operations_of_the_resnet_that_is_given(tmp_path, monkeypatch, units, asked):
    resnet = rk.ResNet((2, 2), 10, (8, 8, 1), width=4)  # a new one would be four times as wide
    resnet.save(tmp_path / "resnet.keras")
    flags = [*of_every_budget(tmp_path, *units), "--pretrained", str(tmp_path / "resnet.keras"), "--compute", "0.9"]
    monkeypatch.setattr(one_budget, "calibrated", lambda model, dataset: model)
    monkeypatch.setattr(one_budget, "at", lambda model, compute: compute)
    _, trained, halting = one_budget.stages(config.parse(one_budget.OneBudgetConfig, "", flags), rk.data.load_digits())
    assert halting.prepare(trained.prepare(resnet)) == pytest.approx(asked)


def test_every_budget_may_be_trained_with_early_exits():
    for share in (0.0, 0.4):
        flags = ["--compute", "1", "--early-exits", str(share)]
        stage = any_budget.stages(config.parse(any_budget.AnyBudgetConfig, "", flags), rk.data.load_digits())[1]
        exits = stage.training.compile_options().get("early_exits")
        assert (exits.weight if exits else 0.0) == share


def test_one_budget_is_trained_with_early_exits_or_by_depths(tmp_path):
    digits = rk.data.load_digits()
    given = [*of_every_budget(tmp_path, 1, 1), "--compute", "0.9"]

    def trained(*flags):
        _, stage, _ = one_budget.stages(config.parse(one_budget.OneBudgetConfig, "", [*given, *flags]), digits)
        model = stage.prepare(rk.ResNet((2, 2), 10, (8, 8, 1), width=4))
        exits = stage.training.compile_options().get("early_exits")
        return exits and exits.weight, [module.controller.shares for module in model.routed_modules]

    assert trained() == (0.7, [(1.0, 1.0), (1.0, 1.0)])
    assert trained("--early-exits", "0", "--last-unit", "0.5") == (None, [(1.0, 1.0), (1.0, 0.5)])


@pytest.mark.slow
def test_shares_of_a_batch_fit_any_number_of_modules(tmp_path):
    digits = rk.data.load_digits()

    def shares(*flags):
        settings = config.parse(any_budget.AnyBudgetConfig, "", [*flags, "--compute", "1"])
        trained = any_budget.stages(settings, digits)[1]
        resnet = rk.ResNet([count + 1 for count in settings.units], 10, (8, 8, 1), width=4)
        return [module.controller.shares for module in trained.prepare(resnet).routed_modules]

    assert shares("--units", "1", "1", "1") == [(0.6, 0.1), (0.9, 0.3), (1.0, 1.0)]
    assert shares("--units", "1") == [(1.0, 1.0)]
    assert np.array(shares("--units", "1", "1", "--first-unit", "0.5", "--last-unit", "0.1", "0.5")) == pytest.approx(
        np.array([(0.5, 0.1), (0.5, 0.5)])
    )
    with pytest.raises(ValueError, match=r"^--first-unit and --last-unit: .* Received: shares=\(0.2, 0.5\)"):
        shares("--first-unit", "0.2", "--last-unit", "0.5")


@pytest.mark.slow
def test_the_least_compute_fraction_of_every_budget_is_what_its_calibration_finds():
    digits = rk.data.load_digits()
    settings = config.parse(any_budget.AnyBudgetConfig, "", ["--compute", "1"])
    trained = any_budget.stages(settings, digits)[1]
    model = trained.prepare(rk.ResNet((4, 4), 10, (8, 8, 1)))
    images = digits.normalize(digits.test.images[:8])
    least = rk.inference.calibrate(model, images, digits.test.labels[:8]).compute[0]
    for compute, is_reached in ((least - 1e-3, False), (least + 1e-3, True)):
        settings = config.parse(any_budget.AnyBudgetConfig, "", ["--compute", str(compute)])
        if is_reached:
            any_budget.stages(settings, digits)
            continue
        with pytest.raises(ValueError, match=r"^--compute: `compute_target` must be above"):
            any_budget.stages(settings, digits)

"""The search space, and the oracles that choose in it."""

import dataclasses
import json
import shlex

import pytest

import from_scratch
import reset_keras as rk
from experiment import config
from tiny_search import settings
from tuning import oracles, search_space
from tuning.settings import SCORERS


def test_every_point_of_the_space_is_a_command_line():
    search = settings("folder", "--seed", "3", "--epochs-scale", "0.5")
    oracle = oracles.make_oracle(dataclasses.replace(search, tuner="random"), 3)
    hp = oracle.get_space()
    search_space.declare(hp, search.scorers)
    oracle.update_space(hp)
    defaults = config.parse(from_scratch.FromScratchConfig, "", [])
    for _ in range(100):
        hp = oracle.get_space()
        hp.values = oracle._random_values()
        values = search_space.declare(hp, search.scorers)
        noisy = values["scorer"] != "softmax"
        assert ("temperature" in values) == ("final_temperature" in values) == noisy
        assert ("skip_reward" in values) == (values["scorer"] == "gumbel_st")
        assert values["controller_size"] in search_space.SIZES[values["controller"]]
        least, most = search_space.RATES[values["optimizer"]]
        assert least <= values["rate"] <= most
        full = search_space.scratch_config(search, values)
        assert (full.seed, full.epochs_scale, full.train_steps) == (3, 0.5, defaults.train_steps)
        flags = shlex.split(search_space.command(full))[2:]
        assert config.parse(from_scratch.FromScratchConfig, "", flags) == full


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["random", "hyperband", "bayesian"])
def test_an_oracle_killed_between_its_files_goes_on(tmp_path, tuner):
    def new_oracle(name):
        oracle = oracles.make_oracle(settings(tmp_path, "--tuner", tuner, "--trials", "6"), 9)
        oracle._set_project_dir(str(tmp_path), name)
        hp = oracle.get_space()
        search_space.declare(hp, SCORERS)
        oracle.update_space(hp)
        return oracle

    def end(oracle, trial, score):
        oracle.update_trial(trial.trial_id, {"objective": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)

    def next_values(oracle):
        return oracle.create_trial("tuner0").hyperparameters.values

    undisturbed = new_oracle("undisturbed")
    for score in (0.5, 0.75, 0.6, 0.7):
        end(undisturbed, undisturbed.create_trial("tuner0"), score)

    oracle = new_oracle("killed")
    for score in (0.5, 0.75, 0.6):
        end(oracle, oracle.create_trial("tuner0"), score)
    last = oracle.create_trial("tuner0")
    oracle.update_trial(last.trial_id, {"objective": 0.25})  # its result is known, its end not yet
    unrecorded = {**last.get_state(), "trial_id": "4"}  # and one has begun that the oracle's own file does not have
    (tmp_path / "killed" / "trial_4").mkdir()
    (tmp_path / "killed" / "trial_4" / "trial.json").write_text(json.dumps(unrecorded))

    again = new_oracle("killed")
    again.reload()
    assert set(again.trials) == {"0", "1", "2", "3"}
    repeated = again.create_trial("tuner0")
    assert (repeated.trial_id, repeated.hyperparameters.values) == ("3", last.hyperparameters.values)
    end(again, repeated, 0.7)
    assert again.trials["3"].score == 0.7
    ended = new_oracle("undisturbed")
    ended.reload()  # from a file that still has the last trial as running
    assert next_values(again) == next_values(undisturbed) == next_values(ended)


def test_sized_controllers_are_else_the_usual_ones():
    digits = rk.data.load_digits()
    for kind, attribute in (("rnn", "hidden_size"), ("cnn", "filters")):
        flags = ["--units", "1", "2", "--controller", kind]
        usual, small = (
            from_scratch.stages(config.parse(from_scratch.FromScratchConfig, "", flags + more), digits)[0].prepare(None)
            for more in ([], ["--controller-size", "4"])
        )
        for ours, theirs in zip(small.routed_modules, usual.routed_modules, strict=True):
            expected = {**theirs.controller.get_config(), attribute: 4}
            assert ours.controller.get_config() == expected


def test_a_skip_reward_is_given_only_where_there_is_one():
    digits = rk.data.load_digits()
    for flags, reward in ([], None), (["--skip-reward", "0.05"], 0.05):
        (stage,) = from_scratch.stages(config.parse(from_scratch.FromScratchConfig, "", flags), digits)
        options = stage.training.compile_options()
        assert (options["skip_reward"].reward if "skip_reward" in options else None) == reward

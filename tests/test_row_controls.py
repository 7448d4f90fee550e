"""Controls of the tables' rows: static networks of their cost, and the same networks along other routes."""

import dataclasses
import json

import numpy as np
import pytest

import reset_keras as rk
import resnet_baseline
import route_controls
from experiment import config
from finished_runs import arguments, system_run
from paper_tables import controls, execution, paper, results_table
from paper_tables.deadline import Deadline
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig
from reproduce import main

SKIPS = np.array([[0, 0, 0], [1, 1, 0]])  # of two images: the second runs a unit in the third iteration only


def save_routes(folder, *skips):
    """Routes of modules with one unit and a zero unit, which is chosen where there is a 1."""
    modules = [{"scores": np.stack([1 - skip, skip], axis=-1).astype(float)} for skip in map(np.array, skips)]
    rk.analysis.Routes(modules, (True,) * len(modules)).save(folder / "routes.npz")


def new_run(folder, experiment):
    return Run(config.parse(ReproduceConfig, "", ["--workdir", str(folder / "runs")]), experiment, 0)


def top_1(folder, *skips):
    """A finished run of row 18, whose network gets the first 4 of ten images right."""
    run = new_run(folder, "top_1")
    system_run(run.workdir, [("top_1", range(4), 0.43)])
    save_routes(run.workdir / "stages" / "01-top_1", *skips)
    return run


@pytest.mark.parametrize(
    ("skips", "units"),
    [
        ([SKIPS, 0 * SKIPS], "2-3"),  # 2 of 3 units on average, then all
        ([1 + 0 * SKIPS, SKIPS], "0-2"),
        ([[[0, 0, 1], [0, 0, 0], [0, 0, 0]]], None),  # 2.67 units, nearest to the whole ResNet
        ([0 * SKIPS], None),
    ],
)
def test_a_static_control_has_as_many_blocks_as_run_on_average(tmp_path, skips, units):
    found = [control.name for control in controls.static_controls(top_1(tmp_path, *skips))]
    assert found == ([] if units is None else [f"quick/static_{units}-seed0"])


def test_a_static_control_is_the_resnet_with_these_blocks(tmp_path):
    run = dataclasses.replace(new_run(tmp_path, "static_0-2"), seed=3)
    settings = config.parse(resnet_baseline.ResNetBaselineConfig, "", run.flags)
    assert (settings.units, settings.seed, settings.preset) == ((0, 2), 3, "quick")


def test_controls_follow_the_runs_that_they_are_for_once_these_are_done(tmp_path):
    done, begun = top_1(tmp_path, SKIPS), new_run(tmp_path, "top_2")
    names = [run.experiment for run in controls.with_controls([begun, done, done])]
    assert names == ["top_2", "top_1", "static_2"]


def test_a_row_stands_beside_its_controls(tmp_path):
    """Of ten images row 18 has 0 to 3 right, its static control 2 to 8."""
    run = top_1(tmp_path, SKIPS)
    (control,) = controls.static_controls(run)
    resnet = system_run(control.workdir, [], resnet_right=0) / "stages" / "00-pretrain"
    folder = resnet.rename(resnet.with_name("00-resnet"))
    np.savez(folder / "predictions.npz", test=np.isin(range(10), range(2, 9)) - 1, test_labels=np.zeros(10, int))
    result = {
        "stage": "resnet",
        "accuracy": {"test": 0.7},
        "compute_fraction": 1.0,
        "macs": 432.1,
    }  # over a ResNet of its shape
    (folder / "result.json").write_text(json.dumps(result))
    ours = run.workdir / "stages" / "01-top_1" / "result.json"  # 0.43 of a ResNet of 1,000 MACs
    ours.write_text(json.dumps({**json.loads(ours.read_text()), "macs": 430.0}))
    found = {
        name: {"accuracy": accuracy, "p_value": p}
        for name, accuracy, p in (("shuffled", "72.43", "1e-20"), ("one_for_all", "84.90", "0.5"))
    }
    (run.workdir / "route_controls.json").write_text(json.dumps({f"{run.name}/stages/01-top_1/model.keras": found}))
    main(config.parse(ReproduceConfig, "", arguments(tmp_path, "--table", "2", "--rows", "18", "--collect")))
    *_, line = results_table.read(tmp_path / "results" / "table2_digits.csv")
    assert (line["row"], line["shuffled"], line["one_for_all"], line["one_for_all_p"]) == (
        "18",
        "72.43",
        "84.90",
        "0.5",
    )
    assert [line[f"static{name}"] for name in ("", "_accuracy", "_compute")] == ["units 2", "70.00", "0.432"]
    assert (line["static_better"], line["static_worse"]) == ("2", "5")
    assert line["static_p"] == f"{2 * (1 + 7 + 21) / 2**7:.2g}"  # twice the binomial tail of 2 of 7
    cells = "| 40.00 | 0.430 | 72.43 | 1e-20 | 84.90 | 0.5 | units 2 | 70.00 | 0.432 | 2 / 5 | 0.45 |"
    assert f"| 18 | SM pretr., top-k 1 {cells}\n" in (tmp_path / "README.md").read_text()


def test_a_system_stands_beside_the_shorter_resnet_of_the_nearest_cost(tmp_path):
    rows = {row.stage: row for row in paper.rows_of("systems")}
    act = system_run(tmp_path / "act", [("act_0.03", range(8), 0.62)])
    shorter = system_run(tmp_path / "static", [("static_1", range(9), 1.0), ("static_0.7", range(7), 0.72)])
    workdirs = {"systems_act": act, "systems_static": shorter}
    line = results_table.collect(rows["act_0.03"], 0, "quick", 1.0, workdirs)
    assert (line["static_accuracy"], line["static_compute"], line["static_better"]) == ("70.00", "0.720", 1)
    assert line["static"] == "strength 0.7"
    of_static = results_table.collect(rows["static_0.7"], 0, "quick", 1.0, workdirs)
    assert "static_accuracy" not in of_static


def test_results_of_another_command_do_not_pass_for_this_ones(tmp_path, capsys):
    run = new_run(tmp_path, "softmax")
    execution.note_begin(run)
    begun = json.loads(run.begun.read_text())
    run.begun.write_text(json.dumps({**begun, "command": "python recipes/from_scratch.py --train-steps 7"}))
    before = run.begun.read_text()
    assert execution.run_all([run], Deadline(None)) == [run]
    assert f"{run.workdir} was begun by another command, python recipes/from_scratch.py" in capsys.readouterr().out
    assert run.begun.read_text() == before


def test_routes_of_several_networks_go_into_one_file_and_one_that_cannot_is_named(tmp_path, capsys):
    paths = [tmp_path / f"{name}.keras" for name in ("routed", "resnet", "other")]
    for path, scorer in zip(paths, ("softmax", None, "hard"), strict=True):
        network = rk.ResNet((1,), 10, (8, 8, 1), width=4)
        if scorer:
            network = rk.ReSetNet((1,), None, 10, (8, 8, 1), scorer=scorer, width=4)
        network.save(path)
    flags = ["--dataset", "digits", "--output", str(tmp_path / "found.json"), "--network", *map(str, paths)]
    with pytest.raises(SystemExit):
        route_controls.main(config.parse(route_controls.RouteControlsConfig, "", flags))
    printed = capsys.readouterr()
    assert f"must have routes; received {paths[1]}" in printed.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == [str(paths[0]), str(paths[2])]
    for lines in found.values():
        assert list(lines) == ["own", "shuffled", "one_for_all"]
        assert f"| {lines['own']['accuracy']} |" in " ".join(printed.out.split())


@pytest.mark.programs
def test_a_finished_run_measures_its_networks_along_other_routes(tmp_path):
    run = top_1(tmp_path, [[0]])
    network = rk.ReSetNet((1,), None, 10, (8, 8, 1), scorer="hard", width=4)
    network.save(run.workdir / "stages" / "01-top_1" / "model.keras")
    assert execution.measure_routes(run, Deadline(None))
    *_, row = paper.rows_of("2", (18,))
    found = controls.along_other_routes(row, run.workdir)
    digits = rk.data.load_digits()
    images, labels = digits.normalize(digits.test.images), digits.test.labels
    expected = rk.analysis.route_controls(network, images, labels)
    assert found["shuffled"] == f"{100 * expected.shuffled.accuracy:.2f}"
    assert found["one_for_all"] == f"{100 * expected.one_for_all.accuracy:.2f}"
    assert 0 <= float(found["shuffled_p"]) <= 1

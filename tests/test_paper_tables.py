"""The paper's tables: what finished runs have measured, row by row."""

import itertools
import json
import os
import pathlib
import re

import numpy as np
import pytest

from experiment import config
from finished_runs import arguments, finished_run, system_run
from paper_tables import comparison, paper, readme, results_table, systems_figure
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig
from reproduce import main

ROOT = pathlib.Path(__file__).parents[1]


def readme_of(results):
    """The text with the tables of these results."""
    path = results / "README.md"
    readme.write_readme(results, path)
    return path.read_text()


def test_mcnemar_by_hand():
    labels = np.zeros(20, int)
    ours, theirs = labels.copy(), labels.copy()
    ours[:1] = 1  # one image that only the other gets right
    theirs[1:10] = 1  # nine that only ours gets right
    better, worse, p_value = comparison.mcnemar(ours, theirs, labels)
    assert (better, worse) == (9, 1)
    assert p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert comparison.mcnemar(ours, ours, labels) == (0, 0, 1.0)


def test_seeds_are_averaged_and_other_results_kept(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for seed, accuracy in enumerate((0.92, 0.93)):
        workdir = finished_run(tmp_path / f"run{seed}", accuracy)
        line = results_table.collect(row, seed, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / "results", [line])
    again = results_table.collect(row, 1, "paper", 1.0, {"resnet38": finished_run(tmp_path / "again", 0.94)})
    results_table.merge(tmp_path / "results", [again])
    row = "| 1 | ResNet38 (baseline) | 92.8 | 93.00 ± 1.41 | 83.8 | - | 84.00 ± 1.41 | 9.00 ± 0.00 |"
    assert row in readme_of(tmp_path / "results")


def test_the_command_of_every_seed_stands_with_its_own_hardware_and_date(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for seed, (command, date) in enumerate({"first": "2026-01-02", "second": "2026-03-04"}.items()):
        workdir = finished_run(tmp_path / command, 0.9)
        (workdir / "provenance.json").write_text(json.dumps({"command": command, "commit": "1234567", "date": date}))
        line = results_table.collect(row, seed, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / "results", [line | {"hardware": f"the {command} machine"}])
    text = readme_of(tmp_path / "results")
    assert "the first machine:\n\n- row 1: `first`, at 1234567, 2026-01-02\n" in text
    assert "the second machine:\n\n- row 1: `second`, at 1234567, 2026-03-04\n" in text


def test_runs_from_a_given_resnet_are_kept_apart_and_labelled(tmp_path):
    (row,) = (row for row in paper.rows_of("2", (8,)) if row.number == 8)
    runs = {"": 0.91, "mine.keras": 0.90}
    for given, accuracy in runs.items():
        workdir = finished_run(tmp_path / f"run{given}", accuracy, "rnn_softmax")
        for stage in ("00-rnn_softmax", "01-pretrain"):
            (workdir / "stages" / stage).mkdir(exist_ok=True)
            np.savez(workdir / "stages" / stage / "predictions.npz", test=np.zeros(9), test_labels=np.zeros(9))
        provenance = json.loads((workdir / "provenance.json").read_text())
        (workdir / "provenance.json").write_text(json.dumps({**provenance, "start": given}))
        line = results_table.collect(row, 0, "paper", 1.0, {"controller_only": workdir})
        results_table.merge(tmp_path / "results", [line])
    text = readme_of(tmp_path / "results")
    assert "| 8 | SM pretr., Contr. | 91.8 | 91.00 |" in text
    assert "| 8 | SM pretr., Contr., from `mine.keras` | 91.8 | 90.00 |" in text
    assert "- of table 2 with `--preset fast`: 1 to 20\n- of table 2 with `--preset paper`: 1 to 7, 9 to 20\n" in text
    assert "- of table 3 with `--preset paper`: 1 to 5\n" in text


def test_a_run_that_an_older_version_finished_keeps_the_name_of_its_start(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    workdir = finished_run(tmp_path / "run", 0.91)
    provenance = json.loads((workdir / "provenance.json").read_text())
    (workdir / "provenance.json").write_text(json.dumps({**provenance, "resnet": "mine.keras"}))
    line = results_table.collect(row, 0, "paper", 1.0, {"resnet38": workdir})
    results_table.merge(tmp_path / "results", [line])
    csv_file = tmp_path / "results" / "table2_cifar10.csv"
    (found,) = results_table.read(csv_file)
    assert found["start"] == "mine.keras"
    csv_file.write_text(csv_file.read_text().replace(",start,", ",resnet,"))
    results_table.merge(tmp_path / "results", [line | {"start": "", "accuracy": "12.00"}])
    kept = {found["start"]: found["accuracy"] for found in results_table.read(csv_file)}
    assert kept == {"mine.keras": "91.00", "": "12.00"}


def test_runs_of_another_precision_are_another_row(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for seed, precision in enumerate(("bfloat16", "float32")):
        workdir = finished_run(tmp_path / precision, 0.90 + 0.01 * seed)
        (workdir / "config.json").write_text(json.dumps({"dataset": "cifar10", "precision": precision}))
        line = results_table.collect(row, seed, "fast", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / "results", [line])
    text = readme_of(tmp_path / "results")
    assert "| bfloat16 | 1 | 1 |\n" in text
    assert "| float32 | 1 | 1 |\n" in text


def test_a_given_resnet_keeps_the_comparison_with_the_one_that_is_trained(tmp_path):
    for name, stage, right in (("resnet38", "resnet", 6), ("softmax", "train", 8)):
        workdir = finished_run(tmp_path / "runs/quick" / f"{name}-seed0", 0.9, stage)
        predictions = np.arange(10) >= right
        np.savez(workdir / "stages" / f"00-{stage}" / "predictions.npz", test=predictions, test_labels=np.zeros(10))
    for given in ((), ("--resnet", "resnet38_cifar10")):
        flags = ("--table", "2", "--rows", "2", "8", "--collect", *given)
        main(config.parse(ReproduceConfig, "", arguments(tmp_path, *flags)))
        (_, line) = results_table.read(tmp_path / "results" / "table2_cifar10.csv")
        assert (line["row"], line["better"], line["worse"]) == ("2", "2", "0")


def test_times_of_different_machines_have_no_mean_and_a_column_has_all_seeds(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    lines = [
        results_table.collect(row, seed, "paper", 1.0, {"resnet38": finished_run(tmp_path / str(seed), 0.9)})
        for seed in range(3)
    ]
    for hardware, time in (("abacus", "1.11 ± 0.10"), ("another machine", "")):
        others = ({"relative_time": "1.11"}, {"relative_time": "1.21", "hardware": hardware, "gap": ""})
        changed = [lines[0], *(line | other for line, other in zip(lines[1:], others, strict=True))]
        results_table.merge(tmp_path / "results", changed)
        entry = readme._entry(results_table.read(tmp_path / "results" / "table2_cifar10.csv"))
        found = {name: entry[name] for name in ("accuracy", "accuracy_10_1_v6", "gap", "relative_time", "seeds")}
        expected = {"accuracy": "90.00 ± 0.00", "accuracy_10_1_v6": "81.00 ± 0.00", "gap": ""}
        assert found == {**expected, "relative_time": time, "seeds": 3}


def test_a_shorter_preset_is_labelled_and_is_not_the_papers_length(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    workdir = finished_run(tmp_path / "run", 0.91)
    line = results_table.collect(row, 0, "fast", 1.0, {"resnet38": workdir})
    results_table.merge(tmp_path / "results", [line])
    text = readme_of(tmp_path / "results")
    assert "With `--preset fast`:\n\n| Row |" in text
    assert "| float32 | 1 | 1 |\n" in text
    assert "- of table 2 with `--preset fast`: 2 to 20\n- of table 2 with `--preset paper`: 1 to 20\n" in text


def test_rows_of_each_preset_are_a_table_and_the_schedule_of_fast_stands_above_them(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    workdirs = {"resnet38": finished_run(tmp_path / "run", 0.91)}
    for preset, time in (("paper", ""), ("fast", "0.87")):
        line = results_table.collect(row, 0, preset, 1.0, workdirs) | {"relative_time_of_one": time}
        results_table.merge(tmp_path / "results", [line])
    first = results_table.collect(row, 1, "fast", 0.5, workdirs)
    results_table.merge(tmp_path / "results", [first | {"relative_time_of_one": ""}])
    schedule, fast, papers = (part.splitlines() for part in readme_of(tmp_path / "results").split("With `--preset "))
    assert (fast[0], papers[0]) == ("fast`:", "paper`:")
    for header, rule, entries in ((*fast[2:4], fast[4:6]), (*papers[2:4], papers[4:5])):
        assert {line.count("|") for line in (rule, *entries)} == {header.count("|")}
    cells = [[cell.strip() for cell in line.split("|")] for line in fast[2:6]]
    assert [line[cells[0].index("Time of one")] for line in (cells[2], cells[3])] == ["0.87", "-"]
    assert "Time of one" not in papers[2]
    settings = {line.split(" | ")[0]: line for line in schedule if line.startswith("| ")}
    assert "| 0.122 of the paper's batches: 7,808 for 64,000 " in settings["| length"]
    assert "| 0.2 from scratch" in settings["| its peak"]


def test_columns_of_cifar10_1_are_there_where_it_was(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for name in ("with", "without"):
        workdir = finished_run(tmp_path / name, 0.91)
        if name == "without":
            path = workdir / "stages" / "00-resnet" / "result.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": {"test": 0.91}}))
        line = results_table.collect(row, 0, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / f"results-{name}", [line])
        lines = readme_of(tmp_path / f"results-{name}").splitlines()
        first = next(index for index, text in enumerate(lines) if text.startswith("| Row | Model | Paper C10"))
        assert len({text.count("|") for text in lines[first : first + 3]}) == 1
        assert ("Paper C10.1" in lines[first]) == (name == "with")


@pytest.mark.parametrize(
    ("preset", "scale", "expected"), [("fast", 1.0, []), ("fast", 0.5, ["0.061"]), ("paper", 0.5, ["0.5"])]
)
def test_a_scale_is_a_factor_on_the_length_that_the_preset_has(preset, scale, expected):
    settings = ReproduceConfig(preset=preset, scale=scale, workdir="runs")
    flags = Run(settings, "resnet38", 0).flags
    assert [after for flag, after in itertools.pairwise(flags) if flag == "--epochs-scale"] == expected


def test_the_readme_is_what_the_results_say(tmp_path):
    readme.write_readme(ROOT / "results", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)[)#]", text)
    assert len(links) > 2
    assert [link for link in links if not (tmp_path / link).exists()] == []
    from_recipes = text.replace(f"]({os.path.relpath(ROOT, tmp_path)}/", "](../")
    assert from_recipes == (ROOT / "recipes" / "README.md").read_text()


def test_only_collect_writes_into_the_clone_whose_path_no_help_shows(capsys):
    settings = config.parse(ReproduceConfig, "", [])
    assert settings.results_folder == pathlib.Path(settings.workdir, "results")
    assert settings.readme_file == pathlib.Path(settings.workdir, "tables", "README.md")
    collecting = config.parse(ReproduceConfig, "", ["--collect"])
    assert collecting.results_folder == ROOT / "results"
    assert collecting.readme_file == ROOT / "recipes" / "README.md"
    with pytest.raises(SystemExit):
        config.parse(ReproduceConfig, "", ["--help"])
    assert str(ROOT) not in "".join(capsys.readouterr().out.split())


def test_systems_that_are_done_go_into_a_table_and_a_figure(tmp_path):
    runs = tmp_path / "runs" / "quick"
    for seed in (0, 1):
        finished_run(runs / f"resnet38-seed{seed}", 0.6)
        (runs / f"resnet38-seed{seed}" / "config.json").write_text(json.dumps({"dataset": "digits"}))
        stages = [
            ("act_0.005", range(4, 9), 0.9),
            ("act_0.01", range(5 + seed), 0.7),
            ("act_0.03", range(2 + 2 * seed), 0.5),
        ]
        system_run(runs / f"systems_act-seed{seed}", stages)
    main(config.parse(ReproduceConfig, "", arguments(tmp_path, "--table", "systems", "--seeds", "2", "--collect")))
    text = (tmp_path / "README.md").read_text()
    assert "## Systems, digits\n" in text
    assert "(results/figures/systems_digits.svg)" in text
    ends = "| float32 | 1 | 2 |"
    assert f"| 1 | ResNet | - | 60.00 ± 0.00 | 1.000 ± 0.000 | - | - | 1.01 ± 0.00 | - | - {ends}" in text
    expected = [  # p is twice the binomial tail of the smaller number, for the seed for which that is the largest
        "0.005 | 50.00 ± 0.00 | 0.900 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 3 / 4 | 1 ",
        "0.01 | 55.00 ± 7.07 | 0.700 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 0 / 1 | 1 ",
        "0.03 | 30.00 ± 14.14 | 0.500 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 0 / 2 | 0.5 ",
    ]
    numbers = [row.number for row in paper.rows_of("systems") if row.model == "ACT"]
    for number, cells in zip(numbers, expected, strict=True):
        assert f"| {number} | ACT | {cells}{ends}\n" in text
    header, rule, *_ = text.partition("## Systems")[2].partition("| Row")[2].splitlines()
    assert header.count("|") + 1 == rule.count("|") == (cells + ends).count("|") + 3
    figure = (tmp_path / "results" / "figures" / "systems_digits.svg").read_text()
    assert ">ACT<" in figure
    assert ">ResNet<" in figure
    assert ">SkipNet<" not in figure


def test_the_figure_has_a_curve_for_each_system_and_repeats_its_bytes(tmp_path):
    rows = [row for row in paper.rows_of("systems") if row.model in {"ReSet", "ShaResNet"}]
    for seed, right in ((0, 9), (1, 7)):
        stages = [(row.stage, range(right), compute) for row, compute in zip(rows, (1.0, 0.7, 0.5, 0.3), strict=True)]
        workdir = system_run(tmp_path / f"run{seed}", stages)
        workdirs = {row.experiment: workdir for row in rows}
        lines = [
            results_table.collect(row, seed, preset, 1.0, workdirs) for row in rows for preset in ("fast", "quick")
        ]
        results_table.merge(tmp_path, lines)
    figure = systems_figure.systems_figure(results_table.read(tmp_path / "systems_digits.csv"))
    assert [axes.get_title() for axes in figure.axes] == ["preset fast", "preset quick"]
    for axes in figure.axes:
        shared, reset = axes.containers
        assert (shared.get_label(), reset.get_label()) == ("ShaResNet", "ReSet")
        np.testing.assert_allclose(shared.lines[0].get_xydata(), [[1.0, 80]])
        np.testing.assert_allclose(reset.lines[0].get_xydata(), [[0.3, 80], [0.5, 80], [0.7, 80]])
        (bar, *_) = reset.lines[2][0].get_segments()
        np.testing.assert_allclose(bar[:, 1], [80 - 10 * 2**0.5, 80 + 10 * 2**0.5])
    (path,) = systems_figure.write_systems_figures(tmp_path)
    first = path.read_bytes()
    systems_figure.write_systems_figures(tmp_path)
    assert path.read_bytes() == first
    assert path.name == "systems_digits.svg"
    assert len(first) < 50_000


def test_results_of_other_strengths_stay_apart(tmp_path):
    row = paper.rows_of("systems")[1]
    lines = [
        results_table.collect(row, seed, "quick", 1.0, {row.experiment: workdir})
        for seed in (0, 1)
        for workdir in [system_run(tmp_path / f"run{seed}", [(row.stage, range(8), 0.9)])]
    ]
    results_table.merge(tmp_path, [{**line, "strength": "0.77"} for line in lines])
    results_table.merge(tmp_path, lines[:1])
    text = readme_of(tmp_path)
    assert f"| {row.number} | {row.model} | 0.77 | 80.00 ± 0.00 |" in text
    assert f"| {row.number} | {row.model} | {row.strength} | 80.00 |" in text


def test_a_run_of_other_settings_is_no_row(tmp_path):
    row = paper.rows_of("systems")[1]
    workdir = system_run(tmp_path / "run", [(f"{row.stage}77", range(8), 0.9)])
    with pytest.raises(ValueError, match=rf"run is a run of other settings: .* and no {row.stage}\. Move it away"):
        results_table.collect(row, 0, "quick", 1.0, {row.experiment: workdir})


def test_the_first_rows_of_a_run_that_goes_on_are_in_the_table(tmp_path):
    """The machine may be gone before the last stage, which takes days, has ended."""
    given = ["--table", "1", "--preset", "fast", "--seeds", "1", "--collect"]
    settings = config.parse(ReproduceConfig, "", arguments(tmp_path, *given))
    run = Run(settings, "shortened_1-1-5", 0)
    finished_run(run.workdir, 0.875, stage=paper.rows_of("1", (1,))[0].stage)
    run.provenance.rename(run.begun)
    main(settings)
    (line,) = results_table.read(tmp_path / "results" / "table1_cifar10.csv")
    assert (line["row"], line["accuracy"], line["commit"], line["p_value"]) == ("1", "87.50", "1234567", "")
    *_, second = paper.rows_of("1", (2,))
    assert results_table.collect(second, 0, "fast", 1.0, {second.experiment: run.workdir}) is None

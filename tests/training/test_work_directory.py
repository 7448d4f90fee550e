import json

import pytest

from reset_keras.training import WorkDirectory

CONFIG = {"seed": 1, "workdir": "here", "units": [3, 3]}


def claimed(path):
    workdir = WorkDirectory(path / "run", CONFIG)
    workdir.write_config()
    return workdir


def test_the_same_settings_go_on_in_it(tmp_path):
    claimed(tmp_path)
    WorkDirectory(tmp_path / "run", dict(CONFIG))
    WorkDirectory(tmp_path / "run", {**CONFIG, "workdir": "there"}, replaceable=("workdir",))


def test_other_settings_are_refused_by_name(tmp_path):
    claimed(tmp_path)
    with pytest.raises(ValueError, match=r"another run: seed was 1, is 2; units was \[3, 3\], is \[4\]"):
        WorkDirectory(tmp_path / "run", {**CONFIG, "seed": 2, "units": [4]})


def test_a_folder_that_was_not_claimed_takes_any_settings(tmp_path):
    WorkDirectory(tmp_path / "run", CONFIG)
    WorkDirectory(tmp_path / "run", {"seed": 5})


def test_a_damaged_config_is_an_error(tmp_path):
    (claimed(tmp_path).path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        WorkDirectory(tmp_path / "run", CONFIG)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        WorkDirectory(tmp_path / "file" / "run", CONFIG)


def test_metrics_are_lines_of_json_and_an_unfinished_one_is_passed_over(tmp_path):
    workdir = WorkDirectory(tmp_path, CONFIG)
    assert workdir.metrics() == []
    lines = [{"event": "epoch", "stage": "a", "epoch": epoch} for epoch in range(3)]
    for line in lines:
        workdir.append_metrics(line)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "ep')
    assert workdir.metrics() == lines
    workdir.keep_metrics(lambda line: line["epoch"] < 2)
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == lines[:2]

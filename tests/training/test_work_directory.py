import errno
import json
import os
import subprocess
import sys

import pytest

from reset_keras.training import DamagedRunError, WorkDirectory, read_config, read_result

pytestmark = pytest.mark.faults
CONFIG = {"seed": 1, "workdir": "here", "units": [3, 3]}


def claimed(path):
    workdir = WorkDirectory(path / "run", CONFIG)
    workdir.write_config()
    return workdir


def test_the_same_settings_go_on_in_it(tmp_path):
    assert read_config(str(claimed(tmp_path).path / "config.json")) == CONFIG
    again = WorkDirectory(tmp_path / "run", dict(CONFIG))
    elsewhere = WorkDirectory(tmp_path / "run", {**CONFIG, "workdir": "there"}, replaceable=("workdir",))
    assert (again.config, elsewhere.config) == (CONFIG, {**CONFIG, "workdir": "there"})


def test_other_settings_are_refused_by_name(tmp_path):
    claimed(tmp_path)
    with pytest.raises(ValueError, match=r"run: seed was 1, is 2; units was \[3, 3\], is \[4\]\. Give another `path`"):
        WorkDirectory(tmp_path / "run", {**CONFIG, "seed": 2, "units": [4]})


def test_a_folder_that_was_not_claimed_takes_any_settings(tmp_path):
    WorkDirectory(tmp_path / "run", CONFIG)
    WorkDirectory(tmp_path / "run", {"seed": 5})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "{", r"is not JSON .* take another work directory \(recipes: --workdir\)"),
        (lambda text: "", "is not JSON"),
        (lambda text: "[1, 2]", r"must hold an object with settings by name, holds \[1, 2\]"),
        (
            lambda text: text.replace('"seed"', '"sead"'),
            r"unknown setting 'sead': remove it, or give another `path` \(recipes: --workdir\)",
        ),
        (lambda text: text.replace('"seed": 1', '"seed": "1"'), "'seed' must be of the type of 1, is '1'"),
        (lambda text: text.replace('"seed": 1', '"seed": true'), "'seed' must be of the type of 1, is True"),
        (lambda text: text.replace("3", '"3"'), r"'units' must be of the type of \[3, 3\].* another `path`"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "'format' is 2, and this reset_keras reads up to 1"),
        (lambda text: text.replace('"format": 1', '"format": "x"'), "'format' is 'x'"),
        (lambda text: "\ud83d" * 2, "is not JSON"),
    ],
)
def test_a_config_that_is_no_such_config_is_refused(tmp_path, edit, message):
    path = claimed(tmp_path).path / "config.json"
    path.write_bytes(edit(path.read_text()).encode(errors="surrogatepass"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        WorkDirectory(tmp_path / "run", CONFIG)
    assert path.read_bytes() == before


def test_an_integer_may_stand_for_a_float_but_is_another_value(tmp_path):
    WorkDirectory(tmp_path / "run", {"rate": 1}).write_config()
    WorkDirectory(tmp_path / "run", {"rate": 1.0})
    with pytest.raises(ValueError, match=r"rate was 1, is 0\.5"):
        WorkDirectory(tmp_path / "run", {"rate": 0.5})


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


def test_one_process_at_a_time_is_let_in(tmp_path):
    code = "import sys; from reset_keras.training import WorkDirectory; WorkDirectory(sys.argv[1], {}).hold()"
    command = [sys.executable, "-c", f"{code}; print('held', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is running in the work directory"):
            WorkDirectory(tmp_path, {}).hold()
        other.kill()
    WorkDirectory(tmp_path, {}).hold()


def test_damaged_lines_are_left_out_and_said_so(tmp_path):
    workdir = claimed(tmp_path)
    for epoch in range(3):
        workdir.append_metrics({"stage": "train", "epoch": epoch})
    path = workdir.path / "metrics.jsonl"
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"123\n" + b"\xff\xfe\n" + second + third + b'{"stage"')
    with pytest.warns(UserWarning, match=r"metrics.jsonl: lines \[2, 3\] are damaged, and are left out"):
        assert [line["epoch"] for line in workdir.metrics()] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"[]", b"{}", b"", b"\xff", b"123", b"null", b'{"stage": "tr'])
def test_a_result_that_is_no_row_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DamagedRunError, match=r"result.json is damaged .* remove it to train this stage again"):
        read_result(path)


def test_a_result_of_version_0_1_is_read(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"stage": "train", "steps": "3-4"}')
    assert read_result(str(path))["paper_steps"] == "3-4"


def test_a_setting_that_was_none_may_be_given_now_but_is_another_value(tmp_path):
    WorkDirectory(tmp_path, {"rate": None}).write_config()
    with pytest.raises(ValueError, match=r"rate was None, is 0\.5"):
        WorkDirectory(tmp_path, {"rate": 0.5})


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match="cannot be written to"):
        WorkDirectory(tmp_path, CONFIG)


def test_a_file_system_without_locks_is_worked_on_without(tmp_path, monkeypatch):
    def no_locks(descriptor, _):
        descriptors.append(descriptor)
        raise OSError(errno.ENOLCK, "No locks available")

    descriptors = []
    monkeypatch.setattr("fcntl.lockf", no_locks)
    WorkDirectory(tmp_path, CONFIG).hold()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(*descriptors)


def test_a_system_without_locks_is_worked_on_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    workdir = WorkDirectory(tmp_path, CONFIG)
    workdir.hold()
    workdir.write_config()
    assert read_config(str(tmp_path / "config.json")) == CONFIG


def test_settings_are_compared_as_json_has_them(tmp_path):
    settings = {"units": (5, 5), "nested": {"a": (1, 2)}, "numbers": {1: 2}, "nothing": float("nan")}
    WorkDirectory(tmp_path, settings).write_config()
    assert WorkDirectory(tmp_path, settings).config["units"] == [5, 5]
    with pytest.raises(ValueError, match=r"units was \[5, 5\], is \[5, 4\]"):
        WorkDirectory(tmp_path, settings | {"units": (5, 4)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "png"}, "'format' stands for the files' version"),
        ({"a": {1, 2}}, "`config` must hold what JSON can"),
    ],
)
def test_settings_that_a_run_cannot_have(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        WorkDirectory(tmp_path, settings)

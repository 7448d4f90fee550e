"""The command that runs a network along the routes of other images."""

import zipfile

import keras
import numpy as np
import pytest

import reset_keras as rk
import route_controls


def parsed(*flags):
    return route_controls.parse(route_controls.RouteControlsConfig, "", [*map(str, flags)])


def error_of(capsys, *flags):
    with pytest.raises(SystemExit) as stopped:
        route_controls.main(parsed(*flags))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.slow
def test_the_table_has_the_networks_accuracy_and_what_its_routes_cost(tmp_path, capsys):
    model = rk.ReSetNet((2,), None, 10, (8, 8, 1), scorer="softmax", width=4)
    model.save(tmp_path / "model.keras")
    route_controls.main(parsed("--network", tmp_path / "model.keras", "--dataset", "digits"))
    _, _, own, shuffled, one = capsys.readouterr().out.strip().splitlines()
    digits = rk.data.load_digits()
    predicted = model.predict(digits.normalize(digits.test.images), verbose=0).argmax(axis=-1)
    accuracy = keras.ops.mean(keras.ops.cast(predicted == digits.test.labels, "float32"))
    assert [cell.strip() for cell in own.split("|")[1:3]] == ["its own", f"{100 * float(accuracy):.2f}"]
    assert "another image's" in shuffled
    assert "one for all" in one
    assert "| 1 " in one  # an untrained network's routes hardly differ


def test_each_route_is_compared_with_the_networks_own(tmp_path, capsys, monkeypatch):
    rk.ReSetNet((1,), None, 10, (8, 8, 1), width=4).save(tmp_path / "model.keras")
    own = np.arange(360) < 100
    shuffled = (np.arange(360) >= 5) & (np.arange(360) < 102)  # five that only its own get right, two that only these
    along = [rk.analysis.Along(right, compute) for right, compute in ((own, 1.0), (shuffled, 0.9), (own, 0.8))]
    monkeypatch.setattr(rk.analysis, "route_controls", lambda *_: rk.analysis.RouteControls(*along))
    route_controls.main(parsed("--network", tmp_path / "model.keras", "--dataset", "digits"))
    lines = [line.split("|") for line in capsys.readouterr().out.strip().splitlines()[2:]]
    assert [[cell.strip() for cell in cells[2:6]] for cells in lines] == [
        ["27.78", "1.000", "-", "-"],
        ["26.94", "0.900", "2 / 5", "0.45"],
        ["27.78", "0.800", "0 / 0", "1"],
    ]


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    assert f"there is no file {tmp_path / 'nix.keras'}, nor" in error_of(capsys, "--network", tmp_path / "nix.keras")
    rk.ReSetNet((2,), None, 10, (8, 8, 1), width=4).save(tmp_path / "model.keras")
    flags = ("--network", tmp_path / "model.keras", "--dataset", "digits")
    assert "HaltingControllers" in error_of(capsys, *flags, "--compute", "0.5")


@pytest.mark.parametrize("damage", ["empty", "truncated", "changed", "no network"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, capsys, damage):
    path = tmp_path / "model.keras"
    rk.ReSetNet((2,), None, 10, (8, 8, 1), width=4).save(path)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "no network":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no network")
    else:
        changed = content[:middle] + b"x" * 200 + content[middle + 200 :]
        path.write_bytes({"empty": b"", "truncated": content[:middle], "changed": changed}[damage])
    line = error_of(capsys, "--network", path, "--dataset", "digits")
    expected = "is no network that can be loaded: " if damage == "no network" else "is damaged or incomplete: "
    assert f"{path} {expected}" in line
    assert "not found" not in line


def test_a_network_of_other_images_or_without_routes_is_told_in_one_line(tmp_path, capsys):
    rk.ReSetNet((1,), None, 10, (9, 9, 1), width=4).save(tmp_path / "model.keras")
    line = error_of(capsys, "--network", tmp_path / "model.keras", "--dataset", "digits")
    assert "--dataset digits has images of (8, 8, 1); " in line
    assert "takes (9, 9, 1)" in line
    rk.ResNet((1,), 10, (8, 8, 1), width=4).save(tmp_path / "model.keras")
    assert "must have routes; received" in error_of(capsys, "--network", tmp_path / "model.keras")

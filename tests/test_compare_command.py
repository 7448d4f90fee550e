"""The command that compares trained networks image by image."""

import numpy as np
import pytest
from scipy.stats import binomtest

import compare
import reset_keras as rk
from experiment.config import parse


def printed(capsys, *flags):
    """The cells of the table that the command prints."""
    compare.main(parse(compare.CompareConfig, "", [*map(str, flags), "--dataset", "digits"]))
    _, _, *lines = capsys.readouterr().out.strip().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def error_of(capsys, *flags):
    with pytest.raises(SystemExit) as stopped:
        printed(capsys, *flags)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.slow
def test_each_is_beside_the_first(tmp_path, capsys):
    resnet = rk.ResNet((2,), 10, (8, 8, 1), width=4)
    reset = rk.ReSetNet((2,), None, 10, (8, 8, 1), scorer="softmax", width=4)
    files = [tmp_path / "resnet.keras", tmp_path / "at@home.keras"]
    for model, path in zip((resnet, reset), files, strict=True):
        model.save(path)
    first, second = printed(capsys, "--networks", *files)

    digits = rk.data.load_digits()
    images, labels = digits.normalize(digits.test.images), digits.test.labels
    right = [model.predict(images, verbose=0).argmax(axis=-1) == labels for model in (resnet, reset)]
    accuracies = [f"{100 * part.mean():.2f}" for part in right]
    assert first == [str(files[0]), accuracies[0], "1.000", "-", "-"]
    better, worse = np.sum(right[1] & ~right[0]), np.sum(right[0] & ~right[1])
    assert better + worse > 0
    p_value = f"{binomtest(better, better + worse).pvalue:.2g}"
    spent = rk.inference.routed_macs(reset, reset.predict_routes(images, verbose=0)).mean() / rk.inference.macs(resnet)
    assert second == [str(files[1]), accuracies[1], f"{spent:.3f}", f"{better} / {worse}", p_value]


@pytest.mark.slow
def test_a_network_for_every_budget_is_set_to_one(tmp_path, capsys):
    path = tmp_path / "model.keras"
    resnet = rk.ResNet((2,), 10, (8, 8, 1), width=4)
    model = rk.resnet_to_reset(resnet, rk.HaltingController(1, num_classes=10), rk.HardScorer(sampled=False))
    digits = rk.data.load_digits()
    rk.inference.calibrate(model, digits.normalize(digits.train.images[:64]), digits.train.labels[:64])
    model.save(path)
    whole, cheap = printed(capsys, "--networks", path, f"{path}@0.7")
    assert float(cheap[2]) < 0.8 < float(whole[2]) == 1
    for budget, message in (("half", "a compute fraction goes after @"), ("0.01", "`compute` must be at least")):
        assert message in error_of(capsys, "--networks", f"{path}@{budget}")


def test_other_images_are_told_in_one_line(tmp_path, capsys):
    rk.ResNet((1,), 10, (9, 9, 1), width=4).save(tmp_path / "model.keras")
    line = error_of(capsys, "--networks", tmp_path / "model.keras")
    assert "--dataset digits has images of (8, 8, 1); " in line
    assert "takes (9, 9, 1)" in line

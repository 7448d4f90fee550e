"""Work directories as finished runs leave them."""

import json

import numpy as np


def arguments(folder, *flags):
    places = ["--workdir", str(folder / "runs"), "--results", str(folder / "results")]
    return [*places, "--readme", str(folder / "README.md"), *flags]


def finished_run(folder, accuracy, stage="resnet"):
    stages = folder / "stages" / f"00-{stage}"
    stages.mkdir(parents=True)
    result = {"stage": stage, "start": None, "accuracy": {"test": accuracy, "cifar10_1_v6": accuracy - 0.09}}
    result |= {"device": "abacus", "seconds": 12.4, "compute_fraction": 1.0, "relative_time": 1.01}
    (stages / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps({"dataset": "cifar10"}))
    (folder / "provenance.json").write_text(json.dumps({"command": "c", "commit": "1234567", "date": "2026-01-02"}))
    return folder


def system_run(workdir, stages, resnet_right=6, **provenance):
    """A finished run of a system: of ten test images the ResNet has the first right, and each stage some others too."""
    labels = np.zeros(10, int)
    for index, (stage, right, compute) in enumerate([("pretrain", range(resnet_right), 1.0), *stages]):
        folder = workdir / "stages" / f"{index:02d}-{stage}"
        folder.mkdir(parents=True)
        result = {"stage": stage, "start": "pretrain" if index else None, "accuracy": {"test": len(right) / 10}}
        result |= {"device": "abacus", "seconds": 10.0, "compute_fraction": compute, "relative_time": 0.9}
        (folder / "result.json").write_text(json.dumps(result | {"parameters": 12_345, "relative_time_of_one": 1.23}))
        np.savez(folder / "predictions.npz", test=np.isin(range(10), right) - 1, test_labels=labels)
    (workdir / "config.json").write_text(json.dumps({"dataset": "digits"}))
    provenance = {"command": workdir.name, "commit": "1234567", "date": "2026-01-02", "start": "", **provenance}
    (workdir / "provenance.json").write_text(json.dumps(provenance))
    return workdir

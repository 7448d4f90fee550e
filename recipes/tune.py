"""Searches hyperparameters of `from_scratch.py` with KerasTuner: accuracy at a compute limit.

    python recipes/tune.py                                                          # digits, Bayesian: 10 trials
    python recipes/tune.py --tuner hyperband --workdir runs/hyperband               # or random
    python recipes/tune.py --scorers gumbel_st --trials 30 --workdir runs/hard      # only hard routing
    python recipes/tune.py --compute-limit 3 --workdir runs/soft                    # soft scorers may win
    python recipes/tune.py --preset paper --trials 50                               # CIFAR-10: needs a GPU

A trial is a short training of `from_scratch.py` with other settings: controller, scorer, temperatures, entropy weights,
skip reward, optimizer, learning rate. Trials are compared on a fifth of the training images, on which none of them
trains. The objective is the accuracy there, less a point for each 0.01 of compute fraction beyond `--compute-limit`.
Scorers other than gumbel_st compute all units and so exceed any limit near 1. The test images are used once, by the
best trial's network.

The work directory gets `ranking.csv`, `best.keras` (the best trial's network, as the trial left it), `best.json` (its
accuracy on the test images, and how to normalize images for it), and `best_command.txt`: the command that trains a
network with its settings at full length, times `--epochs-scale` where the search has one, on all training images.
`tensorboard --logdir runs/tune/tensorboard` shows the trials under HParams. The same command goes on after a kill, an
unfinished trial after its last epoch.

On digits the ten trials of the default search took under five minutes on two CPU cores beside other work; the best had
89.24 % of the validation images at 0.935, 89.44 % of the test images at 0.925, and trained in full, by the command that
the search printed, 97.78 % at 0.821. There are 288 validation images: differences of a point or two are noise.

Several processes share a search, also on several machines that see the same work directory. Each has the same flags:

    python recipes/tune.py --distributed chief --chief-address 127.0.0.1:8765
    python recipes/tune.py --distributed worker0 --chief-address 127.0.0.1:8765
    python recipes/tune.py --distributed worker1 --chief-address 127.0.0.1:8765

The chief hands out trials and prints the ranking; workers may come and go. It waits for the trial of a killed worker:
start that worker again, under the same name.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from experiment import rk
from experiment.config import fail, parse
from experiment.interruption import ended_in_words
from experiment.runner import make_repeatable, with_chosen_precision
from tuning.settings import TuneConfig
from tuning.shared_search import check_part, wait_for_chief

VALIDATION_FRACTION = 0.2


def main(config: TuneConfig) -> None:
    """Searches, and, unless this is a worker, prints and writes the result."""
    best, is_worker = Path(config.workdir, "best.json"), config.distributed.startswith("worker")
    try:
        check_part(config)
        dataset = load(config)
        if is_worker:
            wait_for_chief(config, best)  # its work directory then says which precision was chosen
        config = with_chosen_precision(config)
        rk.training.set_precision(config.precision)
        search = set_up(config, dataset)
    except ValueError as error:
        fail(str(error))
    if not best.exists():
        search.search()
    if is_worker:
        print("No trial is left. The chief prints the ranking.")
    else:
        finish(config, search)


def load(config: TuneConfig) -> rk.data.ImageDataset:
    """The dataset; its first test set is a fifth of the training images of each class, the same for every seed.

    Raises:
        ValueError: Keras runs on something other than TensorFlow, or there is no such dataset.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"recipes run on TensorFlow; received KERAS_BACKEND={keras.backend.backend()}: unset it")
    make_repeatable()
    dataset = rk.data.load_dataset(config.dataset, config.image_size)
    held = rk.data.hold_out(dataset, VALIDATION_FRACTION)
    # The order matters: `dataset.test`, by which trials are compared, is the first of these.
    return dataclasses.replace(held, tests={**held.tests, **dataset.tests})


def set_up(config: TuneConfig, dataset: rk.data.ImageDataset) -> Any:
    """The search in its work directory.

    Raises:
        ValueError: the batches are too large or cannot be dealt out evenly to the devices, or the work directory
            belongs to another search.
    """
    from reset_keras.training.devices.strategy import check_batch_size
    from tuning.hypermodel import ReSetHyperModel
    from tuning.oracles import make_oracle
    from tuning.search import Search

    strategy = rk.training.get_strategy(config.strategy)
    check_batch_size(config.batch_size, strategy)
    workdir = rk.training.WorkDirectory(config.workdir, config.as_json(), config.REPLACEABLE)
    hypermodel = ReSetHyperModel(config, dataset)
    epochs, _ = hypermodel.length()
    if not config.distributed.startswith("worker"):
        workdir.hold()
        workdir.write_config()
    return Search(make_oracle(config, epochs), hypermodel, strategy)


def finish(config: TuneConfig, search: Any) -> None:
    """Prints and writes the ranking, and the best trial's network."""
    from tuning.ranking import print_ranking, ranking, write_ranking

    workdir, rows = Path(config.workdir), ranking(config.workdir)
    write_ranking(workdir / "ranking.csv", rows)
    print_ranking(rows, config.compute_limit)
    if "rank" not in rows[0]:
        raise SystemExit("All trials failed: there is no best one.")
    done = workdir / "best.json"
    best = json.loads(done.read_text()) if done.exists() else search.save_best(rows[0])
    print(f"Best: trial {best['trial']}, objective {best['objective']:.4f}, saved as {workdir / 'best.keras'}")
    for name, accuracy in best["accuracy"].items():
        print(f"  {name}: accuracy {100 * accuracy:.2f} %, compute fraction {best['compute_fraction'][name]:.3f}")
    print(f"TensorBoard, with HParams: tensorboard --logdir {workdir / 'tensorboard'}")
    print(f"In full: {best['command']}")


if __name__ == "__main__":
    with ended_in_words():
        main(parse(TuneConfig, __doc__))

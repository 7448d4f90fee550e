"""Compares the accuracy of trainings in bfloat16 and in float32, over several seeds.

    python benchmarks/precision.py                                          # digits
    python benchmarks/precision.py --recipes resnet_baseline --seeds 1 --flags --preset fast --validation 5000

Each recipe runs once for each seed and precision, in `runs/precision`; what is done there is not run again. The table,
`results/precision/precision.md`, has the mean accuracy of each, and the mean of the differences of equal seeds with its
standard error. It does not say that two trainings are alike: rounding sends them on different ways.
"""

import argparse
import datetime
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

from clone import ROOT

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Runs what is missing, writes the table and prints it."""
    settings = _parser().parse_args()
    lines = ["| Recipe | Seeds | float32 % | bfloat16 % | Difference | Standard error |", "|---|--:|--:|--:|--:|--:|"]
    for recipe in settings.recipes:
        accuracies = {
            precision: [accuracy(recipe, seed, precision, settings.flags) for seed in range(settings.seeds)]
            for precision in PRECISIONS
        }
        lines.append(line(recipe, accuracies["float32"], accuracies["bfloat16"]))

    from reset_keras.inference import device_name

    command = shlex.join(["python", "benchmarks/precision.py", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    settings.output.mkdir(parents=True, exist_ok=True)
    table = "\n".join([*lines, "", f"`{command}`, {device_name()}, {date}.", ""])
    (settings.output / "precision.md").write_text(table)
    print(table)


def accuracy(recipe: str, seed: int, precision: str, flags: list[str]) -> float:
    """That of the last stage's network, in percent, on the first test set."""
    workdir = ROOT / "runs/precision" / "-".join([recipe, *flags]).replace("/", "_") / f"{precision}-{seed}"
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--seed", str(seed), "--precision", precision]
    command += ["--workdir", str(workdir), *flags]
    print(shlex.join(command[1:]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - a recipe of ours
    # Folders of stages begin with their numbers, so the largest name is the last stage's.
    result = json.loads(max(workdir.glob("stages/*/result.json")).read_text())
    return 100 * next(iter(result["accuracy"].values()))


def line(recipe: str, float32: list[float], bfloat16: list[float]) -> str:
    """A line of the table, from accuracies in percent by seed."""
    differences = [ours - theirs for ours, theirs in zip(bfloat16, float32, strict=True)]
    error = f"{statistics.stdev(differences) / len(differences) ** 0.5:.2f}" if len(differences) > 1 else "-"
    means = (f"{statistics.mean(values):.2f}" for values in (float32, bfloat16))
    return f"| {recipe} | {len(differences)} | {' | '.join(means)} | {statistics.mean(differences):+.2f} | {error} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["resnet_baseline", "from_scratch"], help="names of recipes")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each (default 5)")
    parser.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=[], help="further flags of the recipes, at the end"
    )
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results/precision", help="folder of the table")
    return parser


if __name__ == "__main__":
    main()

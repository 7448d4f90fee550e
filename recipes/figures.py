"""Draws figures 4, 5 and 6 of the paper from the work directory of a recipe, each as PNG and as PDF.

    python recipes/figures.py                                      # of runs/relaxation, into runs/relaxation/figures
    python recipes/figures.py --workdir runs/mine --stage hybrid_0.1

Figure 4: how much each score differs between test images. Figure 5: test images with the most similar routes.
Figure 6: how the policy evolves along the training.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from experiment.config import Parser, fail


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's settings; mistakes end the process with one line and exit code 2."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/relaxation"), help="folder of the run (default runs/relaxation)"
    )
    parser.add_argument(
        "--stage",
        help="stage that is drawn (default: the last routed one for figures 4 and 5, all trained ones for figure 6)",
    )
    parser.add_argument("--output", type=Path, help="folder for the files (default: figures, in the work directory)")
    parser.add_argument("--queries", type=int, default=4, help="images of figure 5, each of another class (default 4)")
    settings = parser.parse_args(arguments)
    if settings.queries < 1:
        parser.error(f"--queries: must be at least 1, received {settings.queries}")
    return settings


def main(settings: argparse.Namespace) -> None:
    """Writes the figures and prints their files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not settings.workdir.is_dir():
        fail(f"there is no folder {settings.workdir}")
    from reset_keras.analysis import write_route_figures

    output = settings.output or settings.workdir / "figures"
    try:
        paths = write_route_figures(settings.workdir, output, settings.stage, settings.queries)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(*paths, sep="\n")
    if not any(path.name.startswith("figure6") for path in paths):
        print("No figure 6: there is no route_history.npz, which the training of a routed network leaves in its stage")


if __name__ == "__main__":
    main(parse())

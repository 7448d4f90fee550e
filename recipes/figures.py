"""Draws figures 4, 5 and 6 of the paper from the work directory of a recipe, each as PNG and as PDF.

    python recipes/figures.py                                      # of runs/relaxation, into runs/relaxation/figures
    python recipes/figures.py --workdir runs/mine --stage hybrid_0.1

Figure 4: how much each score differs between test images. Figure 5: test images with the most similar routes.
Figure 6: how the policy evolves along the training.
"""

from __future__ import annotations

from pathlib import Path

from experiment import rk
from experiment.config import Flags, fail, flag, parse


class FiguresConfig(Flags):
    """What is drawn, and where."""

    workdir: str = flag("runs/relaxation", "folder of the run")
    stage: str | None = flag(
        None, "stage that is drawn; none: the last routed one for figures 4 and 5, all trained ones for figure 6"
    )
    output: str | None = flag(None, "folder for the files; none: figures, in the work directory")
    queries: int | None = flag(
        None, "images of figure 5, each of another class; none: 4, or as many as there are classes", least=1
    )


def main(config: FiguresConfig) -> None:
    """Writes the figures and prints their files."""
    workdir = Path(config.workdir)
    if not workdir.is_dir():
        fail(f"there is no folder {workdir}")
    output = Path(config.output or workdir / "figures")
    try:
        paths = rk.analysis.write_route_figures(workdir, output, config.stage, config.queries)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(*paths, sep="\n")
    if not any(path.name.startswith("figure6") for path in paths):
        print("No figure 6: there is no route_history.npz, which the training of a routed network leaves in its stage")


if __name__ == "__main__":
    main(parse(FiguresConfig, __doc__))

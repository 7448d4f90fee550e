"""Draws `pool.svg`: a pool of units, and the routes that two images take through it.

python docs/images/draw_pool.py
"""

import pathlib

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

UNITS = ("unit 1", "unit 2", "unit 3", "nothing")
ROUTES = {"easy image": ("#0072b2", (0, 3, 2, 3)), "hard image": ("#d55e00", (1, 0, 2, 2))}
WIDTH, HEIGHT, GAP = 0.62, 0.5, 2.0


def main() -> None:
    """Writes the picture next to this script."""
    plt.rcParams["svg.hashsalt"] = "pool"  # the same file every time
    figure, axes = plt.subplots(figsize=(8.4, 3.1))
    iterations = len(ROUTES["easy image"][1])
    for k in range(iterations):
        axes.text(1 + GAP * k, 3.95, f"iteration {k + 1}", ha="center", fontsize=10)
        for place, name in enumerate(UNITS):
            _box(axes, 1 + GAP * k, 3 - place, name)
    for index, (name, (colour, route)) in enumerate(ROUTES.items()):
        shift = 0.12 - 0.24 * index
        xs, ys = [-0.55], [1.5 + 3 * shift]
        for k, unit in enumerate(route):
            xs += [1 + GAP * k - WIDTH, 1 + GAP * k + WIDTH]
            ys += [3 - unit + shift] * 2
        xs.append(GAP * iterations + 0.35)
        ys.append(1.5 + 3 * shift)
        axes.plot(xs, ys, color=colour, linewidth=2.4, alpha=0.85, zorder=1, solid_joinstyle="round")
        axes.text(xs[0] - 0.08, ys[0], name, color=colour, ha="right", va="center", fontsize=10)
    axes.set(xlim=(-1.9, GAP * iterations + 0.5), ylim=(-0.5, 4.3))
    axes.axis("off")
    figure.savefig(
        pathlib.Path(__file__).with_name("pool.svg"), bbox_inches="tight", metadata={"Date": None}, transparent=False
    )


def _box(axes: Axes, x: float, y: float, name: str) -> None:
    skips = name == "nothing"
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH, y - HEIGHT / 2),
            2 * WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.05",
            facecolor="#f7f7f7" if skips else "#e4edf5",
            edgecolor="#888888",
            linestyle="--" if skips else "-",
            zorder=0,
        )
    )
    axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=2, bbox=_behind_text())


def _behind_text() -> dict[str, object]:
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 1.0}


if __name__ == "__main__":
    main()

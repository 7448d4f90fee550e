"""One run of an experiment: its folder, its command, what it starts from, and whether it is done."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import zlib
from collections.abc import Iterator

from experiment.config import FAST
from paper_tables.paper import experiment_of
from paper_tables.settings import ROOT, ReproduceConfig


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of an experiment with a seed.

    Args:
        config: Settings of the reproduction.
        experiment: Name of the experiment.
        seed: Integer.
    """

    config: ReproduceConfig
    experiment: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its work directory, which lies in that of the reproduction."""
        scale = "" if self.config.scale == 1 else f"-scale{self.config.scale:g}"
        start = f"-from-{_as_folder(self._network())}" if self.given else ""
        return f"{self.config.preset}{scale}/{self.experiment}{start}-seed{self.seed}"

    @property
    def workdir(self) -> pathlib.Path:
        """Its work directory."""
        return pathlib.Path(self.config.workdir, self.name)

    @property
    def flags(self) -> list[str]:
        """Flags of its recipe. Paths are relative to the reproduction's work directory, so that it can be moved."""
        experiment = experiment_of(self.experiment)
        flags = ["--preset", self.config.preset, "--workdir", self.name, "--seed", str(self.seed), *experiment.flags]
        if self.config.scale != 1:
            of_preset = FAST["epochs_scale"] if self.config.preset == "fast" else 1.0
            flags += ["--epochs-scale", f"{self.config.scale * of_preset:g}"]
        return [*flags, *(["--pretrained", self._network()] if experiment.pretrained else [])]

    @property
    def given(self) -> str:
        """The given network that it starts from, or an empty string."""
        return self.config.given(experiment_of(self.experiment).pretrained)

    @property
    def source(self) -> Run | None:
        """The run whose network it starts from."""
        pretrained = experiment_of(self.experiment).pretrained
        return None if pretrained is None or self.given else Run(self.config, pretrained[0], self.seed)

    def _network(self) -> str:
        """The network that it starts from: the given one, or that of another run."""
        pretrained = experiment_of(self.experiment).pretrained
        if pretrained is None or self.source is None:
            return self.given if is_preset(self.given) else os.path.relpath(self.given, self.config.workdir)
        return str(next(self.source.networks(pretrained[1])).relative_to(self.config.workdir))

    def networks(self, stage: str) -> Iterator[pathlib.Path]:
        """The file of a stage's network, if it is there."""
        return self.workdir.glob(f"stages/*-{stage}/model.keras")

    @property
    def lacks(self) -> str:
        """What it cannot start without, as text; empty where nothing is missing."""
        pretrained = experiment_of(self.experiment).pretrained
        if self.source is None or pretrained is None:
            return ""
        if not self.source.done:
            return f"{self.source.name} is not done"
        return (
            "" if any(self.source.networks(pretrained[1])) else f"{self.source.name} lacks its {pretrained[1]} network"
        )

    @property
    def provenance(self) -> pathlib.Path:
        """The file that says that the run is done: command, commit, date."""
        return self.workdir / "provenance.json"

    @property
    def begun(self) -> pathlib.Path:
        """The file of a run that was begun: the same so far, with all commits by which it has been carried out."""
        return self.workdir / "begun.json"

    @property
    def done(self) -> bool:
        """Whether the run is done."""
        return self.provenance.exists()


def is_preset(network: str) -> bool:
    """Whether it is the name of a network that comes with the package, told without TensorFlow."""
    return (ROOT / "reset_keras" / "presets" / f"{network}.keras").is_file()


def _as_folder(network: str) -> str:
    """A network's name or path as a part of a folder's name: where characters are lost, a sum tells paths apart."""
    name = re.sub(r"\W+", "-", network).strip("-")
    return name if name == network else f"{name}-{zlib.crc32(network.encode()):08x}"

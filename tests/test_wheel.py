"""The package as it is installed: a wheel holds all that the README's example, a trained network and the types need."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.programs
EXTRAS = ("scipy", "sklearn", "matplotlib", "jinja2", "pandas", "tensorflow_datasets", "keras_tuner", "onnx", "jax")
"""Packages that neither the library nor the extra `tensorflow` asks for."""
WITHOUT_EXTRAS = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what a wheel holds, and nothing of the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes next to what it builds
    shutil.copytree(ROOT / "reset_keras", source / "reset_keras", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_readmes_example_runs_from_a_wheel_without_the_extras(installed, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    data = "import numpy as np\nimages, labels = np.zeros((4, 32, 32, 3), 'float32'), np.arange(4)\n"
    after = "rk.models.from_preset('resnet38_cifar10')\nprint(rk.__file__, network(images).shape)\n"
    environment = {**os.environ, "PYTHONPATH": str(installed), "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", WITHOUT_EXTRAS + data + example + after]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(str(installed))
    assert last.endswith("(4, 10)")


def test_a_wheel_tells_its_types_and_brings_the_report(installed):
    assert (installed / "reset_keras" / "py.typed").is_file()
    assert (installed / "reset_keras" / "analysis" / "report.html.jinja").is_file()
    assert not (installed / "tests").exists()

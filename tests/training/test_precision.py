"""Precision: what `auto` stands for, what stays float32, and that a run keeps what it began with."""

import json
import pathlib

import keras
import numpy as np
import pytest

import relaxation
import reset_keras as rk
import resnet_baseline
from experiment import config, runner
from networks import images_and_labels, one_module_reset, small_resnet
from reset_keras.models import with_dtype_policy
from reset_keras.training import choose_precision, load_network, set_precision
from reset_keras.training.devices import precision


@pytest.fixture(autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


def machine(monkeypatch, folder, flags):
    """A machine without a GPU whose processor has these instructions."""
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 {flags}\nbugs\t\t:\n")
    monkeypatch.setattr(precision, "CPU_INFO", path)
    monkeypatch.setattr(precision, "has_gpu", lambda: False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512f avx512_bf16", "bfloat16"), ("amx_tile amx_bf16", "bfloat16"), ("avx2 avx512f", "float32")],
)
def test_auto_depends_on_the_instructions(flags, expected, monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path, flags)
    assert choose_precision("auto") == expected


def test_auto_is_float32_where_instructions_cannot_be_listed(monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path, "")
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "missing")
    assert choose_precision("auto") == "float32"


@pytest.mark.parametrize(("capability", "expected"), [(7.5, "float32"), (8.0, "bfloat16"), (9.0, "bfloat16")])
def test_auto_depends_on_the_gpu(capability, expected, monkeypatch):
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    monkeypatch.setattr(precision, "_compute_capability", lambda: capability)
    assert choose_precision("auto") == expected


def test_a_precision_that_is_not_available_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"`precision` must be 'auto' or one of .* Received: 'float8'"):
        choose_precision("float8")
    with pytest.raises(ValueError, match=r"one of \['float32', 'bfloat16'\]\. Received: precision='float8'$"):
        set_precision("float8")
    with pytest.raises(ValueError, match=r"precision='auto'\. Resolve 'auto' with `choose_precision\('auto'\)` first"):
        set_precision("auto")

    def conv(*args, **kwargs):
        raise NotImplementedError("no kernel for bfloat16")

    monkeypatch.setattr(keras.ops, "conv", conv)
    with pytest.raises(ValueError, match=r"bfloat16 is not available: .* \(no kernel for bfloat16\); take float32"):
        choose_precision("bfloat16")


def test_a_run_goes_on_in_the_precision_that_it_began_with(monkeypatch, tmp_path):
    settings = config.parse(relaxation.RelaxationConfig, "", ["--precision", "auto", "--workdir", str(tmp_path)])
    machine(monkeypatch, tmp_path, "avx512_bf16")
    begun = runner.with_chosen_precision(settings)
    assert begun.precision == "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, **begun.as_json()}))
    machine(monkeypatch, tmp_path, "avx2")
    assert runner.with_chosen_precision(settings) == begun
    assert runner.with_chosen_precision(settings, tmp_path / "elsewhere").precision == "float32"


@pytest.mark.parametrize("make", [small_resnet, lambda: one_module_reset("softmax")], ids=["resnet", "reset"])
def test_a_given_network_takes_the_precision_of_the_run(make, tmp_path):
    network = make()
    network.save(tmp_path / "model.keras")
    units = getattr(network, "units", (2, 2))
    set_precision("bfloat16")
    loaded = load_network(tmp_path / "model.keras", units, (8, 8, 1), 4)
    assert loaded.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in loaded.trainable_variables} == {"float32"}
    for ours, theirs in zip(loaded.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images, _ = images_and_labels(8)
    outputs, expected = (keras.ops.convert_to_numpy(model(images, training=False)) for model in (loaded, network))
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected, atol=0.05 * np.abs(expected).max())
    assert not np.array_equal(outputs, expected)


@pytest.mark.slow
def test_a_recipe_trains_in_the_precision_that_it_is_given(tmp_path):
    flags = ["--precision", "bfloat16", "--workdir", str(tmp_path), "--units", "0", "--epochs-scale", "0.01"]
    runner.run(config.parse(resnet_baseline.ResNetBaselineConfig, "", flags), resnet_baseline.stages)
    network = keras.models.load_model(tmp_path / "stages/00-resnet/model.keras", compile=False)
    assert network.compute_dtype == "bfloat16"


def test_keras_forgets_the_precision_in_one_place_only():
    """`keras.backend.clear_session` sets the dtype policy back to float32."""
    root = pathlib.Path(rk.__file__).parents[1]
    files = [file for folder in ("reset_keras", "recipes") for file in (root / folder).rglob("*.py")]
    users = [file.name for file in files if "clear_session(" in file.read_text()]
    assert users == ["precision.py"]


def test_what_decides_stays_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = one_module_reset("gumbel_st")
    (module,) = network.routed_modules
    assert module.pool.compute_dtype == "bfloat16"
    assert module.controller.compute_dtype == module.scorer.compute_dtype == "float32"
    assert network.get_layer("global_pool").compute_dtype == network.get_layer("classifier").compute_dtype == "float32"
    assert {weight.dtype for weight in network.weights if "seed" not in weight.path} == {"float32"}
    routes = network.predict_routes(images_and_labels(4)[0], verbose=0)
    assert {part.dtype for part in routes[0].values()} == {np.dtype("float32")}


def test_a_network_of_that_policy_is_itself():
    network = small_resnet()
    assert with_dtype_policy(network, "float32") is network
    assert isinstance(with_dtype_policy(network, "mixed_bfloat16"), rk.ResNet)


@pytest.mark.parametrize("name", ["many", "Auto", ""])
def test_a_strategy_that_there_is_not_is_named(name):
    with pytest.raises(ValueError, match=f"must be one of .*'mirrored'.* Received: '{name}'"):
        rk.training.get_strategy(name)

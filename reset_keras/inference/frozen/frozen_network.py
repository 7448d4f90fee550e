import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_images, check_integer, check_real
from reset_keras.distribution import has_gpu
from reset_keras.inference.budgets.dial import set_compute
from reset_keras.inference.frozen.compiled import Compiled
from reset_keras.inference.frozen.frozen_graph import frozen_graph, graph_of
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.keras_internals import all_layers
from reset_keras.layers import ReSet
from reset_keras.models import ReSetNet, ResNet, RoutedModel, with_dtype_policy

Tensor = Any
BATCH_SIZE = 128
"""Images that are compared at once."""


class FrozenNetwork:
    """A trained network for inference only, which runs only the chosen units where that is faster. Made by `freeze`.

    Args:
        model: As in `freeze`.
        execution: As in `freeze`. Default `"auto"`.
        threshold: As in `freeze`. Default 0.
        compute: As in `freeze`. Default `None`.

    Attributes:
        compute: Float, the mean compute fraction that the network is set to, or `None`. It may be set at any time.
        modules: List of the frozen modules, in order.
        input_shape: Tuple, the shape of the model's input, `None` for the batch.
        input_dtype: String, the type that inputs are cast to: `"float32"`, or the model's for integers and words.
        execution: String, as it was given.

    Call arguments:
        images: Tensor or array of the shape of the model's input.

    Returns:
        The model's output, as `predict` returns it, but of tensors.

    Raises:
        ValueError: as by `freeze`.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> network = FrozenNetwork(ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st"), execution="dense")
        >>> network.input_shape, network.input_dtype, network.forms(1)
        ((None, 8, 8, 1), 'float32', ['dense'])
    """

    def __init__(
        self, model: keras.Model, execution: str = "auto", threshold: float = 0.0, compute: float | None = None
    ) -> None:
        check_real("threshold", threshold, least=0.0, below=1.0)
        network = graph_of(model)
        if network is None:
            raise ValueError(
                "Only a functional or a built sequential model can be frozen, of a class without another `call`. "
                f"Received: a {type(model).__name__}"
            )
        if len(network.inputs) != 1:
            names = [tensor.name for tensor in network.inputs]
            raise ValueError(f"Only a model with one input can be frozen. Received: inputs {names}")
        self.routed = isinstance(model, RoutedModel)
        whole = model.network if self.routed else network
        returned = whole.output["outputs"] if self.routed else whole.output
        self.graph = frozen_graph(whole, execution, threshold, returned)
        self.execution = execution
        self.input_shape = (None, *self.graph.input.shape[1:])
        dtype = keras.backend.standardize_dtype(self.graph.input.dtype)
        self.input_dtype = "float32" if "float" in dtype else dtype  # integers may be ids that float32 cannot hold
        self._compute: float | None = None
        self._compile()
        if compute is not None:
            self.compute = compute

    def __reduce__(self) -> Any:
        raise TypeError(
            "A frozen network is neither copied nor pickled. Freeze the model again, save the model, or write the "
            f"network by `rk.inference.export`. Received: {self!r}"
        )

    def _compile(self) -> None:
        # "static", or no module at all, counts too.
        branches = all(form.startswith(("branch", "static")) for form in self.forms(1))
        groups = "sparse" in self.forms(None)  # of sizes that XLA would have to know
        one_shape = (1, *self.input_shape[1:])
        # Two programs, as modules choose their form by a batch size that is known when they are traced. On a CPU XLA is
        # slower for batches, and faster for one image through branches or along one route.
        self._one = Compiled(self.run, one_shape, self.input_dtype, xla=has_gpu() or branches)
        self._any = Compiled(self.run, self.input_shape, self.input_dtype, xla=has_gpu() and not groups)

    def __call__(self, images: Tensor) -> Tensor:
        images = keras.ops.convert_to_tensor(images, dtype=self.input_dtype)
        if not _fits(images.shape[1:], self.input_shape[1:]):
            raise ValueError(
                f"This network was built for inputs of shape {('batch', *self.input_shape[1:])}. "
                f"Received: an array of shape {tuple(images.shape)}"
            )
        # Of an empty batch Keras's LSTM cell fails on TensorFlow, where XLA knows the size.
        if images.shape[0] == 0:
            one = np.zeros((1, *images.shape[1:]), "S1" if self.input_dtype == "string" else self.input_dtype)
            return keras.tree.map_structure(lambda output: output[:0], self(one))
        try:
            return self._one(images) if images.shape[0] == 1 else self._any(images)
        except Exception as error:
            if self.execution != "auto" or not self.uses_kernel:
                raise
            warnings.warn(f"The GPU kernel failed; from here on all units run instead: {error}", stacklevel=2)
        for module in self.modules:
            module.execution = "dense"
        self._compile()
        return self(images)

    def run(self, images: Tensor) -> Tensor:
        """The computation itself, not compiled: what exporters trace."""
        outputs = self.graph(images, training=False)
        return outputs["outputs"] if self.routed else outputs

    @property
    def compute(self) -> float | None:
        """The mean compute fraction that the network was set to; `None` where it was not set.

        For a calibrated network for every budget (`HaltingController`) it may be set at any time: the network takes the
        best setting that costs at most that, and the attribute becomes the cost of this setting.
        """
        return self._compute

    @compute.setter
    def compute(self, compute: float) -> None:
        self._compute = set_compute(self.modules_with_budgets, compute)
        if keras.backend.backend() == "jax":
            self._compile()  # the weights of controllers are constants there

    @property
    def uses_kernel(self) -> bool:
        """Whether units are run by the GPU kernel for routed units."""
        return "kernel" in self.forms(None)

    @property
    def modules(self) -> list[FrozenReSet]:
        """The network's frozen modules, in order."""
        return _modules_of(self.graph)

    @property
    def modules_with_budgets(self) -> list[FrozenReSet | ReSet]:
        """All modules: one of a subclass with other methods is not frozen, and has a budget all the same."""
        return [layer for layer in all_layers(self.graph) if isinstance(layer, FrozenReSet | ReSet)]

    def forms(self, batch_size: int | None) -> list[str]:
        """How each module runs its units for a batch of this size, `None` where it is unknown."""
        if batch_size is not None:
            check_integer("batch_size", batch_size, least=0)
        return [module.form(batch_size) for module in self.modules]

    def __repr__(self) -> str:
        forms = {size: "/".join(dict.fromkeys(self.forms(size))) or "static" for size in (1, 128)}
        device = "GPU" if has_gpu() else "CPU"
        return f"<FrozenNetwork {self.graph.name} on {device}: batch of 1 {forms[1]}, larger batches {forms[128]}>"


def _modules_of(graph: keras.Model) -> list[FrozenReSet]:
    found = []
    for layer in graph.layers:
        if isinstance(layer, FrozenReSet):
            found.append(layer)
        elif (nested := graph_of(layer)) is not None:
            found += _modules_of(nested)
    return found


def freeze(
    model: keras.Model,
    execution: str = "auto",
    threshold: float = 0.0,
    compute: float | None = None,
    dtype: str | None = None,
) -> FrozenNetwork:
    """A fast, callable copy of a trained network: batch norms folded, only the chosen units run where that is faster.

    Later training of `model` does not change the frozen network. Your own layers compute as they do in the model; under
    your own scorer all units are run unless `execution` says otherwise.

    Args:
        model: A `RoutedModel`, or a functional or built sequential model, such as a `ResNet`. Models in it are frozen
            like the layers around them.
        execution: `"dense"` runs all units, weighted, in few operations. `"sparse"` runs only the chosen units, images
            in groups by unit, a single image by branches; it needs TensorFlow. `"kernel"` runs the chosen unit of each
            image by a GPU kernel, which looks it up; it needs the JAX backend, where a `.keras` file made on TensorFlow
            loads too. `"auto"`, the default, takes dense where the scorer leaves no unit out; otherwise the kernel on
            JAX with a GPU, until it fails, and elsewhere branches for a batch of one, and for larger ones sparse on a
            CPU by TensorFlow, else dense. Under a `FixedController` and hard scores there is nothing to choose: all
            but `"kernel"` run the units of the route, as a static network does.
        threshold: Float in [0, 1): units whose score is not above it are left out, also under soft routing.
            `approximation_error` measures the error that this makes. It is not the halting threshold of a
            `HaltingController`. Default 0.
        compute: Float, the mean compute fraction of a calibrated network for every budget (the attribute `compute`
            changes it later), or `None`, as the model is. Default `None`.
        dtype: `"float32"` or `"bfloat16"`, in which a `ResNet` or `ReSetNet` computes its convolutions, or `None`, as
            the model does. Controllers, scores and the classifier stay in float32, so that few routes differ. bfloat16
            is faster on CPUs with instructions for it (AVX512-BF16, AMX), and slower on others. Default `None`.

    Returns:
        A `FrozenNetwork`: called with images it returns the model's output.

    Raises:
        ValueError: `execution` or `dtype` is unknown or does not fit the scorer, backend or model; `threshold` is out
            of its range; the model is not functional, has several inputs, or a pool of a class that overrides how it
            is computed; or `compute` is given, and a controller is no `HaltingController`, the network is not
            calibrated, or its cheapest setting costs more.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> network = freeze(ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st"))
        >>> tuple(network(np.zeros((3, 8, 8, 1))).shape)
        (3, 10)
    """
    return FrozenNetwork(model if dtype is None else _in_type(model, dtype), execution, threshold, compute)


def _in_type(model: keras.Model, dtype: str) -> keras.Model:
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    if dtype not in policies or not isinstance(model, ResNet | ReSetNet):
        raise ValueError(
            f"`dtype` must be one of {sorted(policies)}, and the model a ResNet or a ReSetNet; make another one under "
            f"keras.config.set_dtype_policy('mixed_bfloat16'). Received: dtype={dtype!r}, a {type(model).__name__}"
        )
    return with_dtype_policy(model, policies[dtype])


def approximation_error(network: FrozenNetwork, model: keras.Model, images: np.ndarray) -> dict[str, float]:
    """The error that a frozen network's threshold makes: how far its outputs are from those of its model.

    Args:
        network: What `freeze(model, threshold=...)` returned.
        model: The model itself.
        images: Array of the shape of the model's input.

    Returns:
        A dict: `"max_difference"` of the outputs, `"mean_difference"`, both absolute, and `"agreement"`, the share of
        images for which both name the same class. Without the last where the output is one number: which class it names
        depends on the loss.

    Raises:
        ValueError: the model has several outputs, or there is no image.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
        >>> error = approximation_error(freeze(model, threshold=0.05), model, images)
        >>> sorted(error)
        ['agreement', 'max_difference', 'mean_difference']
    """
    outputs = network.graph.output  # a `Sequential` of Keras has no `output`
    count = len(keras.tree.flatten(outputs["outputs"] if network.routed else outputs))
    if count != 1:
        raise ValueError(
            f"Only networks with one output can be compared: freeze a model of one of them. Received: {count} outputs"
        )
    check_images(images)
    parts = [network(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)]
    ours = np.concatenate([keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(parts)])
    (exact,) = keras.tree.flatten(model.predict(images, verbose=0))
    difference = np.abs(ours - exact)
    found = {"max_difference": float(difference.max()), "mean_difference": float(difference.mean())}
    if exact.shape[-1] > 1:
        found["agreement"] = float(np.mean(ours.argmax(axis=-1) == exact.argmax(axis=-1)))
    return found


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one, whose unknown dimensions take any size."""
    return len(shape) == len(expected) and all(
        known in (None, size) for size, known in zip(shape, expected, strict=True)
    )

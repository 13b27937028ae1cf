"""Layers: what a network is made of, with Keras' names and arguments.

A layer holds its settings, and its weights until a model puts them into its network; from then on
it reads and writes them there. A layer belongs to one model.

>>> Dense(4, activation="relu", kernel_regularizer="l2").kernel_regularizer
L2(l2=0.01)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg import activations, constraints, initializers, regularizers
from fastreg.config import DTYPES
from fastreg.errors import check_choice, check_int, check_real
from fastreg.inputs import (
    Bound,
    Groups,
    OwnActivity,
    check_features,
    check_rate,
    check_weights,
    flat_rows,
)
from fastreg.schedules import LearningRateSchedule, now, or_schedule, serialize_if_schedule
from fastreg.serialization import Registry, check_bool, known_arguments, snake_case

Array = NDArray[Any]

_names: Counter[str] = Counter()


def auto_name(prefix: str) -> str:
    """The next free name of this process, as Keras counts: dense, dense_1, dense_2, ..."""
    number = _names[prefix]
    _names[prefix] += 1
    return f"{prefix}_{number}" if number else prefix


def check_name(argument: str, name: Any) -> str:
    """`name` as the name of a layer or model: a string, not empty, no slash.

    >>> check_name("name", "hidden")
    'hidden'
    """
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"{argument}: got {name!r}; a string without '/' is needed, not empty")
    return name


def _named(get: Callable[[Any], Any], argument: str, value: Any) -> Any:
    """`get(value)`, its errors beginning with the argument's name, in place of the kind's."""
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        kind, _, words = str(error).partition(": ")
        named = words if argument.endswith(kind) else error  # "regularizer", kernel_regularizer
        raise type(error)(f"{argument}: {named}") from None


def _regularizer(of: str, argument: str, value: Any) -> regularizers.Regularizer | None:
    """One that may be of a "kernel", a "bias" or an "activity"."""
    found: regularizers.Regularizer | None = _named(regularizers.get, argument, value)
    if found is not None and of not in found.fits:
        what = {"kernel": "kernels", "activity": "activities"}[found.fits[0]]
        raise ValueError(f"{argument}: got {found!r}; {type(found).__name__} is for {what}")
    return found


def _check_rates(argument: str, value: Any, fits: bool, activation: activations.Activation) -> None:
    if isinstance(value, regularizers.KLSparsity) and not fits:
        raise ValueError(
            f"{argument}: got {value!r} of {activation!r}; rates are of outputs in [0, 1]: of "
            "sigmoid, hard_sigmoid, softmax, or relu with a max_value of at most 1"
        )


class Draw(NamedTuple):
    """What the random numbers of a layer follow from."""

    seed: int
    iteration: int
    position: int  # of the layer


class Home(Protocol):
    """What a layer sees of the model it belongs to."""

    def read_weights(self, first: int, count: int) -> list[Array]: ...

    def write_weights(self, first: int, values: Sequence[Array]) -> None: ...

    def settings_changed(self) -> None: ...

    def in_use(self) -> bool: ...


class Layer:
    """Base of the layers.

    Parameters
    ----------
    name : str, optional
        Unique in a model; None counts on: dense, dense_1, ...
    dtype : "float32" or "float64", optional
        All layers of a network compute in one dtype; None takes that of the others.
    trainable : bool, default True
        False keeps the weights as they are and their penalties out of the loss. May be set later.
    """

    # setting -> its check; these may be set at any time and act from the next call of the model.
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {"trainable": check_bool}
    fixed: ClassVar[tuple[str, ...]] = ("name", "dtype")
    keras_only: ClassVar[Mapping[str, object]] = {"autocast": True}
    # Done once to the rows as they come in, not in every step; stands before all that is not.
    at_entry: ClassVar[bool] = False
    # What the network calls the weights that steps update.
    parts: ClassVar[Mapping[str, str]] = {"kernel": "kernel", "bias": "bias"}

    name: str
    dtype: str | None
    trainable: bool

    def __init__(
        self, name: str | None, dtype: str | None, trainable: bool, keras: Mapping[str, object]
    ) -> None:
        for old in ("input_shape", "input_dim"):  # Keras' way before there was an Input
            if keras.get(old) is not None:
                raise ValueError(
                    f"{old}: got {keras[old]!r}; an Input(shape) before the layer says so"
                )
        known_arguments(type(self), keras, self.keras_only)
        self._home: Home | None = None
        self._first = 0  # where its weights begin in the network's
        self._weights: list[Array] | None = []  # None: they are in the network
        self._n_in: int | None = None
        self.outer: tuple[int, ...] = ()  # axes of a row before the last, which it acts on
        self.together = 1  # rows of the network that a row of x makes
        self.dtype = None if dtype is None else check_choice("dtype", str(dtype), DTYPES)
        self.trainable = trainable
        kind = snake_case(type(self).__name__)
        self.name = auto_name(kind) if name is None else check_name("name", name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed and name in self.__dict__:
            raise AttributeError(f"{name}: cannot change in layer {self.name!r}; make a new layer")
        check = self.checks.get(name)
        super().__setattr__(name, value if check is None else check(name, value))
        if check is not None and self._home is not None:
            self._home.settings_changed()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_home": None, "_weights": self.get_weights()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    @property
    def built(self) -> bool:
        """Whether the sizes are known and the weights exist."""
        return self._n_in is not None

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """(None, ..., n_in); AttributeError before the layer is built."""
        return None, *self.outer, self._sizes()[0]

    @property
    def output_shape(self) -> tuple[Any, ...]:
        """(None, ..., n_out); AttributeError before the layer is built."""
        return None, *self.outer_after, self._sizes()[1]

    @property
    def outer_after(self) -> tuple[int, ...]:
        """Axes of a row of the output before the last."""
        return self.outer

    def _sizes(self) -> tuple[int, int]:
        if self._n_in is None:
            raise AttributeError(f"layer {self.name!r} is not built: its input size is not known")
        return self._n_in, self._n_out(self._n_in)

    def _n_out(self, n_in: int) -> int:
        return n_in

    def _shapes(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """The weights by name, in the order of `get_weights`."""
        return {}

    @property
    def weight_names(self) -> list[str]:
        """Names of the arrays of `get_weights` once the layer is built: kernel, bias."""
        return list(self._shapes(0))

    def count_params(self) -> int:
        """How many weights the layer has; AttributeError before it is built."""
        return sum(math.prod(shape) for shape in self._shapes(self._sizes()[0]).values())

    def count_trainable(self) -> int:
        """How many of them training changes."""
        shapes = self._shapes(self._sizes()[0]) if self.trainable else {}
        return sum(math.prod(shape) for name, shape in shapes.items() if name in self.parts)

    @property
    def weights(self) -> list[Array]:
        """Copies of the weights, as `get_weights`."""
        return self.get_weights()

    def get_weights(self) -> list[Array]:
        """Copies of the weights: [kernel (n_in, n_out), bias (n_out,)] of a dense layer."""
        if self._weights is not None:
            return [array.copy() for array in self._weights]
        assert self._home is not None
        return self._home.read_weights(self._first, len(self.weight_names))

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Set the weights to copies of `weights`, a list like that of `get_weights`.

        Raises
        ------
        ValueError, TypeError
            For another number of arrays, other shapes, or values that are no real numbers.
        """
        current = self.get_weights()
        values = check_weights("weights", weights, [array.shape for array in current])
        values = [new.astype(old.dtype) for new, old in zip(values, current, strict=True)]
        if self._weights is not None:
            self._weights = values
        elif self._home is not None:
            self._home.write_weights(self._first, values)

    def build(
        self,
        n_in: int,
        dtype: str,
        rng: np.random.Generator,
        values: Sequence[Array] | None = None,
    ) -> None:
        """Fix the input size and make the weights: `values`, or those it has, or fresh ones."""
        shapes = self._shapes(n_in)
        if values is None and self._n_in is not None:
            if n_in != self._n_in:
                raise ValueError(
                    f"layer {self.name!r}: got width {n_in}; it was built for {self._n_in}"
                )
            values = self.get_weights()
        if values is None:
            self._weights = [
                getattr(self, f"{name}_initializer")(shape, dtype, rng)
                for name, shape in shapes.items()
            ]
        else:
            checked = check_weights(f"weights of {self.name!r}", values, list(shapes.values()))
            self._weights = [array.astype(dtype) for array in checked]
        self._n_in = n_in

    def adopt(self, home: Home) -> None:
        """Become a layer of a model; ValueError if it belongs to one."""
        if self._home is not None and self._home.in_use():
            raise ValueError(
                f"layer {self.name!r} belongs to a model already; make another one with "
                "type(layer).from_config(layer.get_config()), and copy its weights if need be"
            )
        self.move_out()
        self._home = home

    def rehome(self, home: Home) -> None:
        """Belong to another model that takes over the network."""
        self._home = home

    def move_in(self, first: int) -> None:
        """From now on the weights are in the network, from number `first` on."""
        self._weights, self._first = None, first

    def move_out(self) -> None:
        """From now on the weights are here."""
        self._weights = self.get_weights()

    def release(self) -> None:
        """Belong to no model; the weights stay."""
        self.move_out()
        self._home = None

    def describe(self, step: int = 0) -> dict[str, Any] | None:
        """The layer as `Network` takes it, in a step; None if it has no part there."""
        if self.at_entry:
            return None
        raise NotImplementedError

    def _alone(self, activation: activations.Activation, step: int) -> dict[str, Any]:
        """A layer that is an activation, as `Network` takes it."""
        n, _ = self._sizes()
        return {
            "kind": "activation",
            "n_in": n,
            "n_out": n,
            "activation": activation.kind,
            "curve": activation.curve,
            **self._strengths(step),
        }

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        """What the layer makes of rows x (n, n_in), by the functions of `face`.

        In training with a `draw`, else at inference. x is not written to.
        """
        return x

    def constraints(self) -> dict[str, constraints.Constraint]:
        """Those of the weights, by their names."""
        found = {name: getattr(self, f"{name}_constraint", None) for name in self.weight_names}
        return {name: each for name, each in found.items() if each is not None}

    def _regularizers(self) -> dict[str, regularizers.Regularizer]:
        """Of weights by their names, and of the "activity"."""
        found = {of: getattr(self, f"{of}_regularizer", None) for of in (*self.parts, "activity")}
        return {of: regularizer for of, regularizer in found.items() if regularizer is not None}

    def _strengths(self, step: int) -> dict[str, Any]:
        """Of the regularizers in a step, as `Network` takes them.

        The penalty of an activity is a mean over rows of x, of which each makes several of the
        network's where it has more axes.
        """
        found: dict[str, Any] = {
            f"{of}_{p}": 0.0 for of in ("kernel", "bias", "activity") for p in ("l1", "l2")
        }
        for of, regularizer in self._regularizers().items():
            at_step, part = regularizer.at(step), self.parts.get(of, of)
            times = self.together if of == "activity" else 1
            found[f"{part}_l1"], found[f"{part}_l2"] = times * at_step.l1, times * at_step.l2
            if isinstance(at_step, regularizers.KLSparsity):
                found |= {"activity_kl": at_step.kl, "activity_rate": at_step.rate}
            elif of == "activity" and isinstance(regularizer, regularizers.Whole):
                found["activity_own"] = OwnActivity(regularizer, self.outer, self.together)
        return found

    def _bounds(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bound | None]:
        """The constraints of weights of these shapes, as `Network` takes them."""
        found: dict[str, Bound | None] = {}
        for of, shape in shapes.items():
            name = f"{of}_constraint"
            constraint: constraints.Constraint | None = getattr(self, name)
            try:
                bound = None if constraint is None else constraint.bound(shape)
            except ValueError as error:
                raise ValueError(f"{name} of layer {self.name!r}: {error}") from None
            found[f"{self.parts[of]}_constraint"] = bound
        return found

    def whole_penalties(self) -> dict[str, regularizers.Whole]:
        """Penalties whose gradient is added in Python, by the names of the weights; "activity"."""
        return {
            of: regularizer
            for of, regularizer in self._regularizers().items()
            if isinstance(regularizer, regularizers.Whole)
        }

    def schedules(self) -> dict[str, tuple[LearningRateSchedule, Callable[[str, Any], Any]]]:
        """What follows a schedule, by the names of `describe`, with the check of its values."""
        return {
            f"{self.parts.get(of, of)}_{name}": (schedule, regularizers.check_strength)
            for of, regularizer in self._regularizers().items()
            for name, schedule in regularizer.schedules().items()
        }

    def uses_batch(self) -> bool:
        """Whether what training makes of a row depends on the others of its batch."""
        return False

    def enter(self, x: Array) -> Array:
        """What a layer at the entry makes of the rows (n, n_in)."""
        return x

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer: plain Python values, ready for JSON."""
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A new layer, not built, with the settings that `get_config` described."""
        return cls(**known_arguments(cls, config, cls.keras_only))


class Input(Layer):
    """The rows a network reads: the first thing of a `Sequential`.

    Parameters
    ----------
    shape : (int,) or (int, int, ...)
        Of a row, without the batch axis. Where it has several, layers act on the last, as Keras'
        `Dense` does; or `Flatten` comes next.
    batch_size : int, optional
        Kept for the configuration; any batch size is taken.
    dtype : str, optional
        "float32" or "float64" sets the dtype of the whole network; an integer type says only how
        the data come, and is converted.
    name : str, optional
        None counts on: input, input_1, ...

    Raises
    ------
    ValueError, TypeError
        For a shape that is not of positive sizes, or another dtype.

    Examples
    --------
    >>> Input((784,)).shape
    (784,)
    """

    keras_only: ClassVar[Mapping[str, object]] = {
        "sparse": None,
        "ragged": None,
        "batch_shape": None,
        "tensor": None,
        "optional": False,
    }
    fixed = (*Layer.fixed, "shape", "batch_size")

    def __init__(
        self,
        shape: Sequence[int],
        batch_size: int | None = None,
        dtype: str | None = None,
        *,
        name: str | None = None,
        **keras: object,
    ) -> None:
        if not isinstance(shape, list | tuple) or not shape:
            raise ValueError(f"shape: got {shape!r}; (n,) is needed, the width of one row")
        self.batch_size = None if batch_size is None else check_int("batch_size", batch_size, low=1)
        self.shape = tuple(check_int("shape", size, low=1) for size in shape)
        self.input_dtype = None if dtype is None else str(dtype)
        is_float = dtype is not None and not str(dtype).startswith(("int", "uint", "bool"))
        super().__init__(name, dtype if is_float else None, True, keras)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "batch_size": self.batch_size,
            "dtype": self.input_dtype,
        }


class Dense(Layer):
    """A dense layer: `y = activation(x @ kernel + bias)`.

    Each of kernel, bias and output (the "activity", after the activation, divided by the number of
    rows in the batch) may have a regularizer of its own. The regularizers may be set later, too.

    Parameters
    ----------
    units : int
        Width of the output, n_out.
    activation : str or Activation, optional
        "linear" (None), "relu", "tanh", "sigmoid" or "softmax".
    use_bias : bool, default True
    kernel_initializer, bias_initializer : str or Initializer
        First values of the kernel (n_in, units) and the bias (units,).
    kernel_regularizer, bias_regularizer, activity_regularizer : str or Regularizer, optional
        What is added to the loss.
    kernel_constraint, bias_constraint : str or Constraint, optional
        What the weights are brought back to after each step.
    dtype, name, trainable
        As in `Layer`.
    **keras
        Other arguments of Keras' class, at Keras' default only.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range, an unknown name, or one that only Keras supports.

    Examples
    --------
    >>> layer = Dense(3, activation="tanh", kernel_regularizer="l1")
    >>> layer.units, layer.activation.name, layer.kernel_regularizer
    (3, 'tanh', L1(l1=0.01))
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "kernel_regularizer": partial(_regularizer, "kernel"),
        "bias_regularizer": partial(_regularizer, "bias"),
        "activity_regularizer": partial(_regularizer, "activity"),
        "kernel_constraint": partial(_named, constraints.get),
        "bias_constraint": partial(_named, constraints.get),
    }
    fixed = (
        *Layer.fixed,
        "units",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
    )
    keras_only: ClassVar[Mapping[str, object]] = {
        **Layer.keras_only,
        "lora_rank": None,
        "lora_alpha": None,
        "quantization_config": None,
        "input_shape": None,  # the old way to say Input((n,))
        "input_dim": None,
    }

    kernel_regularizer: regularizers.Regularizer | None
    bias_regularizer: regularizers.Regularizer | None
    activity_regularizer: regularizers.Regularizer | None
    kernel_constraint: constraints.Constraint | None
    bias_constraint: constraints.Constraint | None

    def __init__(
        self,
        units: int,
        activation: str | activations.Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: object = "glorot_uniform",
        bias_initializer: object = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(name, dtype, trainable, keras)
        self.units = check_int("units", units, low=1)
        self.activation = _named(activations.get, "activation", activation)
        self.use_bias = check_bool("use_bias", use_bias)
        self.kernel_initializer = _named(initializers.get, "kernel_initializer", kernel_initializer)
        self.bias_initializer = _named(initializers.get, "bias_initializer", bias_initializer)
        self.kernel_regularizer = kernel_regularizer  # type: ignore[assignment]  # checked when set
        self.bias_regularizer = bias_regularizer  # type: ignore[assignment]
        self.activity_regularizer = activity_regularizer  # type: ignore[assignment]
        self.kernel_constraint = kernel_constraint  # type: ignore[assignment]
        self.bias_constraint = bias_constraint  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "activity_regularizer":
            value = _regularizer("activity", name, value)
            _check_rates(name, value, self.activation.gives_rates, self.activation)
        super().__setattr__(name, value)

    def _n_out(self, n_in: int) -> int:
        return self.units

    def build(
        self,
        n_in: int,
        dtype: str,
        rng: np.random.Generator,
        values: Sequence[Array] | None = None,
    ) -> None:
        self._groups(n_in)  # errors before there are weights
        self._bounds({"kernel": (n_in, self.units), "bias": (self.units,)})
        super().build(n_in, dtype, rng, values)

    def _groups(self, n_in: int) -> Groups | None:
        """Those of a group penalty on the kernel."""
        if not isinstance(self.kernel_regularizer, regularizers.GroupL1):
            return None
        try:
            return self.kernel_regularizer.resolve(n_in, self.units)
        except ValueError as error:
            raise ValueError(f"kernel_regularizer of layer {self.name!r}: {error}") from None

    def _shapes(self, n_in: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"kernel": (n_in, self.units)}
        if self.use_bias:
            shapes["bias"] = (self.units,)
        return shapes

    @property
    def kernel(self) -> Array:
        """A copy of the kernel, (n_in, units); AttributeError before the layer is built."""
        self._sizes()
        return self.get_weights()[0]

    @property
    def bias(self) -> Array | None:
        """A copy of the bias, (units,), or None; AttributeError before the layer is built."""
        self._sizes()
        return self.get_weights()[1] if self.use_bias else None

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        y: Array = face.dense_forward(x, self.kernel, self.bias, self.activation)
        return y

    def describe(self, step: int = 0) -> dict[str, Any]:
        n_in, n_out = self._sizes()
        described = {
            "kind": "dense",
            "n_in": n_in,
            "n_out": n_out,
            "activation": self.activation.kind,
            "curve": self.activation.curve,
            "use_bias": self.use_bias,
            "trainable": self.trainable,
        }
        described["kernel_groups"] = self._groups(n_in)
        described |= self._bounds({"kernel": (n_in, n_out), "bias": (n_out,)})
        return {**described, **self._strengths(step)}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }


class Activation(Layer):
    """An activation on its own: `y = activation(x)`.

    Parameters
    ----------
    activation : str or Activation
        As in `Dense`; None is "linear".
    activity_regularizer : str or Regularizer, optional
        As in `Dense`. May be set later.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For an unknown name.

    Examples
    --------
    >>> Activation("relu").activation
    Activation(name='relu')
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "activity_regularizer": partial(_regularizer, "activity"),
    }
    fixed = (*Layer.fixed, "activation")

    activity_regularizer: regularizers.Regularizer | None

    def __init__(
        self,
        activation: str | activations.Activation | None,
        *,
        activity_regularizer: object = None,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(name, dtype, trainable, keras)
        self.activation = _named(activations.get, "activation", activation)
        self.activity_regularizer = activity_regularizer  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "activity_regularizer":
            value = _regularizer("activity", name, value)
            fits = self.activation.gives_rates or self.activation.name == "linear"
            _check_rates(name, value, fits, self.activation)
        super().__setattr__(name, value)

    def describe(self, step: int = 0) -> dict[str, Any]:
        return self._alone(self.activation, step)

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        y: Array = face.activation_forward(x, self.activation)
        return y

    def get_config(self) -> dict[str, Any]:
        found = {**super().get_config(), "activation": activations.serialize(self.activation)}
        if self.activity_regularizer is not None:
            found["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return found


class ActivityRegularization(Layer):
    """Adds the penalty `l1 * sum |x| + l2 * sum x^2` of its input, over the rows of the batch.

    Parameters
    ----------
    l1, l2 : float or LearningRateSchedule, default 0.0
        Coefficients, finite and >= 0. May be set later.
    kl : float or LearningRateSchedule, default 0.0
        That of `KLSparsity`, which Keras lacks, for inputs in [0, 1]. May be set later.
    rate : float in (0, 1), default 0.05
        The mean that each unit shall have where there is a `kl`. May be set later.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> ActivityRegularization(l1=1e-3).l1
    0.001
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "l1": partial(or_schedule, regularizers.check_strength),
        "l2": partial(or_schedule, regularizers.check_strength),
        "kl": partial(or_schedule, regularizers.check_strength),
        "rate": check_rate,
    }

    l1: float | LearningRateSchedule
    l2: float | LearningRateSchedule
    kl: float | LearningRateSchedule
    rate: float

    def __init__(
        self,
        l1: float | LearningRateSchedule = 0.0,
        l2: float | LearningRateSchedule = 0.0,
        *,
        kl: float | LearningRateSchedule = 0.0,
        rate: float = 0.05,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(name, dtype, trainable, keras)
        self.l1, self.l2, self.kl, self.rate = l1, l2, kl, rate

    @property
    def activity_regularizer(self) -> regularizers.Regularizer:
        """All of it as one regularizer."""
        if self.kl == 0:
            return regularizers.L1L2(self.l1, self.l2)
        return regularizers.KLSparsity(self.kl, self.rate, self.l1, self.l2)

    def describe(self, step: int = 0) -> dict[str, Any]:
        return self._alone(activations.get("linear"), step)

    def get_config(self) -> dict[str, Any]:
        names = ("l1", "l2") if self.kl == 0 else ("l1", "l2", "kl")  # Keras' alone, if it can be
        strengths = {name: serialize_if_schedule(getattr(self, name)) for name in names}
        return {**super().get_config(), **strengths, **({"rate": self.rate} if self.kl else {})}


_positive = partial(check_real, low=0.0, low_open=True)
_share_below_1 = partial(check_real, low=0.0, high=1.0, high_open=True)
_deviation = partial(check_real, low=0.0)


class Noise(Layer):
    """Base of the layers that change their inputs at random in training, and not at inference.

    The numbers of a step follow from the seed, the step and the place alone (Philox4x32-10, Salmon
    et al. 2011), so they are the same for any number of threads. One setting says how much: `rate`,
    or `stddev`.
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "rate": partial(or_schedule, _share_below_1),
    }
    fixed = (*Layer.fixed, "seed")
    amount: ClassVar[str] = "rate"

    def __init__(
        self,
        amount: float | LearningRateSchedule,
        seed: int | None,
        name: str | None,
        dtype: str | None,
        trainable: bool,
        keras: Mapping[str, object],
    ) -> None:
        super().__init__(name, dtype, trainable, keras)
        setattr(self, self.amount, amount)
        self.seed = None if seed is None else check_int("seed", seed, low=0, high=2**64 - 1)

    @property
    def _check(self) -> Callable[[str, Any], Any]:
        return _deviation if self.amount == "stddev" else _share_below_1

    def schedules(self) -> dict[str, tuple[LearningRateSchedule, Callable[[str, Any], Any]]]:
        found = getattr(self, self.amount)
        return (
            {self.amount: (found, self._check)} if isinstance(found, LearningRateSchedule) else {}
        )

    def _now(self, step: int) -> float:
        value: float = self._check(self.amount, now(getattr(self, self.amount), step))
        return value

    def describe(self, step: int = 0) -> dict[str, Any]:
        n, _ = self._sizes()
        kind = snake_case(type(self).__name__)
        return {
            "kind": kind,
            "n_in": n,
            "n_out": n,
            self.amount: self._now(step),
            "seed": self.seed,
        }

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        if draw is None:
            return x
        noise = getattr(face, snake_case(type(self).__name__))
        seed = draw.seed if self.seed is None else self.seed
        amount = self._now(0)
        y: Array = noise(x, amount, seed=seed, iteration=draw.iteration, layer=draw.position)
        return y

    def get_config(self) -> dict[str, Any]:
        amount = serialize_if_schedule(getattr(self, self.amount))
        return {**super().get_config(), self.amount: amount, "seed": self.seed}


class Dropout(Noise):
    """Drop inputs at random in training: each is 0 with probability `rate`, else `x / (1 - rate)`.

    See `Noise`.

    Parameters
    ----------
    rate : float in [0, 1), or LearningRateSchedule
        Share of the inputs that are dropped. May be set later.
    noise_shape : None
        Stands where Keras has it; only None is supported.
    seed : int in [0, 2**64), optional
        None takes the model's, which `set_random_seed` makes reproducible.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For a rate or a seed out of range.

    Examples
    --------
    >>> Dropout(0.2).rate
    0.2
    """

    rate: float | LearningRateSchedule

    def __init__(
        self,
        rate: float | LearningRateSchedule,
        noise_shape: None = None,
        seed: int | None = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        if noise_shape is not None:
            raise ValueError(f"noise_shape: got {noise_shape!r}; only None is supported")
        super().__init__(rate, seed, name, dtype, trainable, keras)


class GaussianNoise(Noise):
    """Add normal numbers of mean 0 in training.

    See `Noise`.

    Parameters
    ----------
    stddev : float >= 0, or LearningRateSchedule
        Their standard deviation; Keras has it at most 1. May be set later.
    seed, dtype, name, trainable
        As in `Dropout`.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite `stddev`, a seed out of range.

    Examples
    --------
    >>> GaussianNoise(0.1).stddev
    0.1
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "stddev": partial(or_schedule, _deviation),
    }
    amount = "stddev"

    stddev: float | LearningRateSchedule

    def __init__(
        self,
        stddev: float | LearningRateSchedule,
        seed: int | None = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(stddev, seed, name, dtype, trainable, keras)


class GaussianDropout(Noise):
    """Multiply by normal numbers of mean 1 and variance `rate / (1 - rate)` in training.

    Mean and variance are those of `Dropout`'s factors (Srivastava et al. 2014). See `Noise`.

    Parameters
    ----------
    rate : float in [0, 1), or LearningRateSchedule
        May be set later.
    seed, dtype, name, trainable
        As in `Dropout`.

    Raises
    ------
    ValueError, TypeError
        For a rate or a seed out of range.

    Examples
    --------
    >>> GaussianDropout(0.2).rate
    0.2
    """

    rate: float | LearningRateSchedule

    def __init__(
        self,
        rate: float | LearningRateSchedule,
        seed: int | None = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(rate, seed, name, dtype, trainable, keras)


class AlphaDropout(Noise):
    """Dropout for selu: what is dropped takes selu's limit, and mean and variance stay 0 and 1.

    Klambauer, Unterthiner, Mayr and Hochreiter 2017. See `Noise`.

    Parameters
    ----------
    rate : float in [0, 1), or LearningRateSchedule
        Share of the inputs that are dropped. May be set later.
    noise_shape : None
        Stands where Keras has it; only None is supported.
    seed, dtype, name, trainable
        As in `Dropout`.

    Raises
    ------
    ValueError, TypeError
        For a rate or a seed out of range.

    Examples
    --------
    >>> AlphaDropout(0.2).rate
    0.2
    """

    rate: float | LearningRateSchedule

    def __init__(
        self,
        rate: float | LearningRateSchedule,
        noise_shape: None = None,
        seed: int | None = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        if noise_shape is not None:
            raise ValueError(f"noise_shape: got {noise_shape!r}; only None is supported")
        super().__init__(rate, seed, name, dtype, trainable, keras)


class Normalizes(Layer):
    """Base of `LayerNormalization` and `BatchNormalization`: gamma (n,) scales, beta (n,) shifts.

    Their penalties count as those of a kernel and of a bias.
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "beta_regularizer": partial(_regularizer, "bias"),
        "gamma_regularizer": partial(_regularizer, "bias"),
        "beta_constraint": partial(_named, constraints.get),
        "gamma_constraint": partial(_named, constraints.get),
    }
    fixed = (*Layer.fixed, "center", "scale", "beta_initializer", "gamma_initializer")
    parts: ClassVar[Mapping[str, str]] = {"gamma": "kernel", "beta": "bias"}

    beta_regularizer: regularizers.Regularizer | None
    gamma_regularizer: regularizers.Regularizer | None
    beta_constraint: constraints.Constraint | None
    gamma_constraint: constraints.Constraint | None

    def __init__(
        self,
        axis: object,
        epsilon: float,
        center: bool,
        scale: bool,
        given: Mapping[str, object],
        name: str | None,
        dtype: str | None,
        trainable: bool,
        keras: Mapping[str, object],
    ) -> None:
        if axis not in (-1, [-1], (-1,)):
            raise ValueError(f"axis: got {axis!r}; only -1, the last, is supported")
        super().__init__(name, dtype, trainable, keras)
        self.epsilon = epsilon
        self.center = check_bool("center", center)
        self.scale = check_bool("scale", scale)
        for argument, value in given.items():
            if argument.endswith("_initializer"):
                value = _named(initializers.get, argument, value)
            setattr(self, argument, value)

    def _shapes(self, n_in: int) -> dict[str, tuple[int, ...]]:
        names = (["gamma"] if self.scale else []) + (["beta"] if self.center else [])
        return dict.fromkeys(names, (n_in,))

    @property
    def gamma(self) -> Array | None:
        """A copy of gamma, (n,), or None; AttributeError before the layer is built."""
        return self._array("gamma")

    @property
    def beta(self) -> Array | None:
        """A copy of beta, (n,), or None; AttributeError before the layer is built."""
        return self._array("beta")

    def _array(self, name: str) -> Array | None:
        self._sizes()
        return dict(zip(self.weight_names, self.get_weights(), strict=True)).get(name)

    def build(
        self,
        n_in: int,
        dtype: str,
        rng: np.random.Generator,
        values: Sequence[Array] | None = None,
    ) -> None:
        self._bounds(dict.fromkeys(self.parts, (n_in,)))  # errors before there are weights
        super().build(n_in, dtype, rng, values)

    def describe(self, step: int = 0) -> dict[str, Any]:
        n, _ = self._sizes()
        return {
            "kind": snake_case(type(self).__name__),
            "n_in": n,
            "n_out": n,
            "use_gamma": self.scale,
            "use_bias": self.center,
            "trainable": self.trainable,
            "epsilon": self.epsilon,
            **self._bounds(dict.fromkeys(self.parts, (n,))),
            **self._strengths(step),
        }

    def get_config(self) -> dict[str, Any]:
        found: dict[str, Any] = {"axis": -1, "epsilon": self.epsilon}
        found |= {"center": self.center, "scale": self.scale}
        for name in ("beta", "gamma"):
            initializer = getattr(self, f"{name}_initializer")
            regularizer = getattr(self, f"{name}_regularizer")
            constraint = getattr(self, f"{name}_constraint")
            found[f"{name}_initializer"] = initializers.serialize(initializer)
            found[f"{name}_regularizer"] = regularizers.serialize(regularizer)
            found[f"{name}_constraint"] = constraints.serialize(constraint)
        return {**super().get_config(), **found}


class LayerNormalization(Normalizes):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, by the moments of each row.

    The same in training and at inference (Ba, Kiros and Hinton 2016).

    Parameters
    ----------
    axis : -1
        Stands where Keras has it; only the last is supported.
    epsilon : float > 0, default 1e-3
        May be set later.
    center, scale : bool, default True
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    beta_constraint, gamma_constraint : str or Constraint, optional
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range or an unknown name.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((3,)), LayerNormalization(epsilon=1e-9), Dense(3)])
    >>> model.set_weights([np.ones(3), np.zeros(3), np.eye(3), np.zeros(3)])
    >>> model.predict(np.array([[1.0, 2.0, 3.0]])).round(2)
    array([[-1.22,  0.  ,  1.22]], dtype=float32)
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Normalizes.checks,
        "epsilon": _positive,
    }
    keras_only: ClassVar[Mapping[str, object]] = {**Layer.keras_only, "rms_scaling": False}

    epsilon: float

    def __init__(
        self,
        axis: object = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: object = "zeros",
        gamma_initializer: object = "ones",
        beta_regularizer: object = None,
        gamma_regularizer: object = None,
        beta_constraint: object = None,
        gamma_constraint: object = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        given = {
            "beta_initializer": beta_initializer,
            "gamma_initializer": gamma_initializer,
            "beta_regularizer": beta_regularizer,
            "gamma_regularizer": gamma_regularizer,
            "beta_constraint": beta_constraint,
            "gamma_constraint": gamma_constraint,
        }
        super().__init__(axis, epsilon, center, scale, given, name, dtype, trainable, keras)

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        y: Array = face.layer_normalization(x, self.gamma, self.beta, epsilon=self.epsilon)
        return y


class RMSNormalization(Layer):
    """`x / sqrt(mean of x^2 + epsilon) * scale`, by the mean square of each row.

    The same in training and at inference (Zhang and Sennrich 2019). `scale` (n,) begins at 1.

    Parameters
    ----------
    axis : -1
        Stands where Keras has it; only the last is supported.
    epsilon : float > 0, default 1e-6
        May be set later.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((2,)), RMSNormalization(), Dense(2, use_bias=False)])
    >>> model.set_weights([np.ones(2), np.eye(2)])
    >>> model.predict(np.array([[1.0, 7.0]])).round(2)
    array([[0.2, 1.4]], dtype=float32)
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "epsilon": _positive,
    }
    parts: ClassVar[Mapping[str, str]] = {"scale": "kernel"}
    scale_initializer: ClassVar[initializers.Initializer] = initializers.Ones()

    epsilon: float

    def __init__(
        self,
        axis: object = -1,
        epsilon: float = 1e-6,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        if axis not in (-1, [-1], (-1,)):
            raise ValueError(f"axis: got {axis!r}; only -1, the last, is supported")
        super().__init__(name, dtype, trainable, keras)
        self.epsilon = epsilon

    def _shapes(self, n_in: int) -> dict[str, tuple[int, ...]]:
        return {"scale": (n_in,)}

    @property
    def scale(self) -> Array:
        """A copy of it, (n,); AttributeError before the layer is built."""
        self._sizes()
        return self.get_weights()[0]

    def describe(self, step: int = 0) -> dict[str, Any]:
        n, _ = self._sizes()
        return {
            "kind": "rms_normalization",
            "n_in": n,
            "n_out": n,
            "use_gamma": True,
            "use_bias": False,
            "trainable": self.trainable,
            "epsilon": self.epsilon,
            **self._strengths(step),
        }

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        y: Array = face.rms_normalization(x, self.scale, epsilon=self.epsilon)
        return y

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": -1, "epsilon": self.epsilon}


class BatchNormalization(Normalizes):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, by the moments of each column.

    Training takes them from the batch, and moves the moving ones towards them; inference takes the
    moving ones (Ioffe and Szegedy 2015). A layer that is not trainable takes these in training,
    too, and leaves them as they are.

    Parameters
    ----------
    axis : -1
        Stands where Keras has it; only the last is supported.
    momentum : float in [0, 1], default 0.99
        moving = momentum * moving + (1 - momentum) * batch. May be set later.
    epsilon : float > 0, default 1e-3
        May be set later.
    center, scale : bool, default True
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer : str or Initializer
    moving_mean_initializer, moving_variance_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    beta_constraint, gamma_constraint : str or Constraint, optional
    dtype, name, trainable
        As in `Layer`.
    **keras
        Other arguments of Keras' class (renorm, synchronized), at Keras' default only.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range or an unknown name.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> layer = BatchNormalization(momentum=0.5)
    >>> model = Sequential([Input((2,)), layer, Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> loss = model.train_on_batch(np.array([[1.0, 0.0], [3.0, 0.0]]), np.zeros(2))
    >>> layer.moving_mean, layer.moving_variance
    (array([1., 0.], dtype=float32), array([1. , 0.5], dtype=float32))
    """

    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Normalizes.checks,
        "epsilon": _positive,
        "momentum": partial(check_real, low=0.0, high=1.0),
    }
    fixed = (*Normalizes.fixed, "moving_mean_initializer", "moving_variance_initializer")
    keras_only: ClassVar[Mapping[str, object]] = {
        **Layer.keras_only,
        "renorm": False,
        "renorm_clipping": None,
        "renorm_momentum": 0.99,
        "synchronized": False,
    }

    momentum: float
    epsilon: float

    def __init__(
        self,
        axis: object = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: object = "zeros",
        gamma_initializer: object = "ones",
        moving_mean_initializer: object = "zeros",
        moving_variance_initializer: object = "ones",
        beta_regularizer: object = None,
        gamma_regularizer: object = None,
        beta_constraint: object = None,
        gamma_constraint: object = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        given = {
            "momentum": momentum,
            "beta_initializer": beta_initializer,
            "gamma_initializer": gamma_initializer,
            "moving_mean_initializer": moving_mean_initializer,
            "moving_variance_initializer": moving_variance_initializer,
            "beta_regularizer": beta_regularizer,
            "gamma_regularizer": gamma_regularizer,
            "beta_constraint": beta_constraint,
            "gamma_constraint": gamma_constraint,
        }
        super().__init__(axis, epsilon, center, scale, given, name, dtype, trainable, keras)

    def _shapes(self, n_in: int) -> dict[str, tuple[int, ...]]:
        return {**super()._shapes(n_in), "moving_mean": (n_in,), "moving_variance": (n_in,)}

    @property
    def moving_mean(self) -> Array:
        """A copy, (n,); AttributeError before the layer is built."""
        self._sizes()
        return self.get_weights()[-2]

    @property
    def moving_variance(self) -> Array:
        """A copy, (n,); AttributeError before the layer is built."""
        self._sizes()
        return self.get_weights()[-1]

    def uses_batch(self) -> bool:
        return self.trainable

    def describe(self, step: int = 0) -> dict[str, Any]:
        return {**super().describe(step), "momentum": self.momentum}

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        weights = dict(zip(self.weight_names, self.get_weights(), strict=True))
        mean, variance = weights.pop("moving_mean"), weights.pop("moving_variance")
        if draw is not None and self.trainable:
            here = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
            moved = [
                (self.momentum * old + (1 - self.momentum) * new).astype(x.dtype)
                for old, new in zip((mean, variance), here, strict=True)
            ]
            mean, variance = (each.astype(x.dtype) for each in here)
            self.set_weights([*weights.values(), *moved])
        y: Array = face.batch_normalization(x, mean, variance, **weights, epsilon=self.epsilon)
        return y

    def get_config(self) -> dict[str, Any]:
        moving = {
            f"{name}_initializer": initializers.serialize(getattr(self, f"{name}_initializer"))
            for name in ("moving_mean", "moving_variance")
        }
        return {**super().get_config(), "momentum": self.momentum, **moving}


class Flatten(Layer):
    """Rows of one axis from rows of any: `Input((28, 28))`, `Flatten()`, `Dense(...)`.

    In C order. Right after the Input the rows are flattened as they come in, without a copy where
    they are contiguous; the network does not know of it. After a layer that acted on the last of
    several axes it is a layer of the network, which makes one row of all that a row of x had.

    Parameters
    ----------
    data_format : None or "channels_last"
        Stands where Keras has it.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For another `data_format`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((4, 3)), Flatten(), Dense(1)])
    >>> model.predict(np.zeros((5, 4, 3))).shape
    (5, 1)
    """

    def __init__(
        self,
        data_format: str | None = None,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        if data_format is not None:
            check_choice("data_format", data_format, ("channels_last",))
        super().__init__(name, dtype, trainable, keras)
        self._inside = False

    @property
    def at_entry(self) -> bool:  # type: ignore[override]
        """Whether no layer of the model stands before it."""
        return not self._inside

    def stand_inside(self, inside: bool) -> None:
        """Be told whether one does."""
        self._inside = inside

    @property
    def outer_after(self) -> tuple[int, ...]:
        return ()

    def _n_out(self, n_in: int) -> int:
        return n_in * math.prod(self.outer)

    def describe(self, step: int = 0) -> dict[str, Any] | None:
        n_in, n_out = self._sizes()
        return {"kind": "flatten", "n_in": n_in, "n_out": n_out} if self._inside else None

    def apply(self, x: Array, face: Any, draw: Draw | None = None) -> Array:
        return x.reshape(-1, self._sizes()[1]) if self._inside else x


class Rescaling(Layer):
    """`x * scale + offset`, at the entry of a model: `Rescaling(1 / 255)` for images of bytes.

    Rows are scaled once as they come in, not in every step, so a fit costs the same as without.

    Parameters
    ----------
    scale, offset : float or (n_in,) floats
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For what is no finite number; in a model, for another place than its entry.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((2,)), Rescaling(0.5, offset=1.0), Dense(1, use_bias=False)])
    >>> model.set_weights([[[1.0], [1.0]]])
    >>> model.predict(np.array([[2.0, 4.0]]))
    array([[5.]], dtype=float32)
    """

    at_entry = True
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "scale": lambda argument, value: _numbers(argument, value),
        "offset": lambda argument, value: _numbers(argument, value),
    }

    scale: Array
    offset: Array

    def __init__(
        self,
        scale: ArrayLike,
        offset: ArrayLike = 0.0,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        super().__init__(name, dtype, trainable, keras)
        self.scale = scale  # type: ignore[assignment]  # checked when set
        self.offset = offset  # type: ignore[assignment]

    def enter(self, x: Array) -> Array:
        for name in ("scale", "offset"):
            _check_width(self, name, getattr(self, name), x)
        y: Array = x * self.scale.astype(x.dtype)
        y += self.offset.astype(x.dtype)
        return y

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale.tolist(),
            "offset": self.offset.tolist(),
        }


class Normalization(Layer):
    """`(x - mean) / max(sqrt(variance), 1e-7)` by column, at the entry of a model.

    `adapt` takes mean and variance from data; or they are given. Rows are normalized once as they
    come in, not in every step.

    Parameters
    ----------
    axis : -1
        Stands where Keras has it; only the columns are supported.
    mean, variance : float or (n_in,) floats, optional
        Both or none.
    invert : bool, default False
        The way back: `x * max(sqrt(variance), 1e-7) + mean`.
    dtype, name, trainable
        As in `Layer`.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range; in a model, for another place than its entry, or without mean
        and variance.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Normalization()
    >>> layer.adapt(np.array([[1.0, 10.0], [3.0, 10.0]]))
    >>> layer.mean, layer.variance
    (array([ 2., 10.]), array([1., 0.]))
    """

    at_entry = True
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        **Layer.checks,
        "mean": lambda argument, value: None if value is None else _numbers(argument, value),
        "variance": lambda argument, value: (
            None if value is None else _numbers(argument, value, low=0.0)
        ),
    }
    fixed = (*Layer.fixed, "invert")

    mean: Array | None
    variance: Array | None

    def __init__(
        self,
        axis: object = -1,
        mean: ArrayLike | None = None,
        variance: ArrayLike | None = None,
        invert: bool = False,
        *,
        dtype: str | None = None,
        name: str | None = None,
        trainable: bool = True,
        **keras: object,
    ) -> None:
        if axis not in (-1, [-1], (-1,)):
            raise ValueError(f"axis: got {axis!r}; only -1 is supported")
        if (mean is None) != (variance is None):
            raise ValueError(f"mean, variance: got {mean!r}, {variance!r}; both or none are needed")
        super().__init__(name, dtype, trainable, keras)
        self.invert = check_bool("invert", invert)
        self.mean = mean  # type: ignore[assignment]  # checked when set
        self.variance = variance  # type: ignore[assignment]

    def adapt(self, data: ArrayLike) -> None:
        """Take mean and variance of the columns of `data`, (n, n_in); axes between are flattened.

        Raises
        ------
        ValueError, TypeError
            For what is no array of finite numbers, or empty.
        """
        rows = flat_rows("data", data, None)
        rows = check_features("data", rows, None, "float64")
        self.mean, self.variance = rows.mean(axis=0), rows.var(axis=0)

    def enter(self, x: Array) -> Array:
        if self.mean is None or self.variance is None:
            raise ValueError(f"layer {self.name!r} has no mean and variance yet; call adapt first")
        _check_width(self, "mean", self.mean, x)
        _check_width(self, "variance", self.variance, x)
        mean = self.mean.astype(x.dtype)
        deviation = np.maximum(np.sqrt(self.variance.astype(x.dtype)), x.dtype.type(1e-7))
        y: Array = x * deviation + mean if self.invert else (x - mean) / deviation
        return y

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": -1,
            "mean": None if self.mean is None else self.mean.tolist(),
            "variance": None if self.variance is None else self.variance.tolist(),
            "invert": self.invert,
        }


def _numbers(argument: str, value: Any, low: float = -math.inf) -> Array:
    """A finite number or a row of them, >= low, as a float64 array that cannot be written to."""
    array = np.array(value, dtype=np.float64) if np.asarray(value).dtype.kind in "iuf" else None
    if array is None or array.ndim > 1 or array.size == 0:
        raise TypeError(f"{argument}: got {value!r}; a number or a row of numbers is needed")
    if not (np.isfinite(array) & (array >= low)).all():
        raise ValueError(f"{argument}: got {value!r}; finite numbers >= {low:g} are needed")
    array.setflags(write=False)
    return array


def _check_width(layer: Layer, what: str, row: Array, x: Array) -> None:
    if row.ndim == 1 and len(row) != x.shape[1]:
        raise ValueError(
            f"{what} of layer {layer.name!r}: got {len(row)} numbers; the rows have {x.shape[1]}"
        )


REGISTRY: Registry[Layer] = Registry(
    "layer",
    Layer,
    (
        *(Input, Dense, Activation, ActivityRegularization),
        *(Dropout, GaussianNoise, GaussianDropout, AlphaDropout),
        *(LayerNormalization, RMSNormalization, BatchNormalization),
        *(Flatten, Rescaling, Normalization),
    ),
    aliases={"InputLayer": Input},
)


def serialize(layer: Layer) -> dict[str, Any]:
    """The layer as `{"class_name", "config"}`, without its weights.

    >>> serialize(Dropout(0.5, name="half"))["class_name"]
    'Dropout'
    """
    return REGISTRY.serialize(layer)


def deserialize(config: Mapping[str, Any]) -> Layer:
    """The layer that `serialize` wrote, not built.

    >>> deserialize({"class_name": "Dropout", "config": {"rate": 0.5}}).rate
    0.5
    """
    return REGISTRY.deserialize(config)

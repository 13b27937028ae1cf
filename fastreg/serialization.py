"""Names and configuration dictionaries of the small objects, in one place.

Regularizers, initializers, losses, metrics and optimizers are all found by name, instance, class or
dictionary, and written as Keras writes them: `{"class_name": "L2", "config": {"l2": 0.01}}`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from fastreg.errors import unknown_name


@dataclass(frozen=True)
class Configurable:
    """Base of the frozen objects: a dataclass whose fields are its configuration."""

    keras_only: ClassVar[Mapping[str, object]] = {}  # arguments only Keras has -> Keras' default

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal object: plain Python values, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The object that `get_config` described; a Keras configuration serves as well."""
        return cls(**known_arguments(cls, config, cls.keras_only))

    def _set(self, **values: object) -> None:
        """Write checked values into the frozen object, from `__post_init__`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def known_arguments(
    cls: type, arguments: Mapping[str, Any], keras_only: Mapping[str, object]
) -> dict[str, Any]:
    """`arguments` without those that only Keras has, which must stand at Keras' default.

    Raises
    ------
    TypeError
        For an argument that nobody has, or `arguments` that are no dictionary with string keys.
    ValueError
        For an argument of Keras that would change the result here.
    """
    if not isinstance(arguments, Mapping):
        raise TypeError(
            f"config: got {arguments!r}; a dictionary of arguments of {cls.__name__} is needed"
        )
    own = _argument_names(cls)
    for name, value in arguments.items():
        if name in own:
            continue
        if name not in keras_only:
            raise TypeError(str(unknown_name(f"argument of {cls.__name__}", name, own or ["none"])))
        default = keras_only[name]
        if value is not default and value != default:
            raise ValueError(f"{name}: got {value!r}; {cls.__name__} supports only {default!r}")
    return {name: value for name, value in arguments.items() if name in own}


@cache  # a signature takes long to read
def _argument_names(cls: type) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


class _Named(Protocol):
    def get_config(self) -> dict[str, Any]: ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self: ...


T = TypeVar("T", bound=_Named)


class Registry(Generic[T]):
    """The classes of one kind of object, found by name whatever its case and underscores.

    Parameters
    ----------
    argument : str
        What the errors call the thing.
    base : type
        The class that all of them extend.
    classes : iterable of type
        One word of each is its class name in snake case ("glorot_uniform").
    aliases : mapping, optional
        Other names, as Keras has them.
    by_name : mapping, optional
        Class name -> arguments, where a name alone means something else than the class' defaults.
    """

    def __init__(
        self,
        argument: str,
        base: type[T],
        classes: Iterable[type[T]],
        aliases: Mapping[str, type[T]] | None = None,
        by_name: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.argument = argument
        self.base = base
        self.classes = tuple(classes)
        self.names = [snake_case(cls.__name__) for cls in self.classes] + list(aliases or {})
        self._by_name = dict(by_name or {})
        self._found = {same_name(cls.__name__): cls for cls in self.classes}
        self._found.update({same_name(alias): cls for alias, cls in (aliases or {}).items()})

    def find(self, name: str) -> type[T]:
        """The class called `name`; ValueError with the nearest name when there is none."""
        cls = self._found.get(same_name(name))
        if cls is None:
            raise unknown_name(self.argument, name, self.names)
        return cls

    def get(self, identifier: object) -> T:
        """The object meant by an instance, a class, a name or what `serialize` wrote."""
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier()
        if isinstance(identifier, str):
            cls = self.find(identifier)
            return cls.from_config(self._by_name.get(cls.__name__, {}))
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        raise TypeError(
            f"{self.argument}: got {identifier!r}; a name ({', '.join(self.names)}), "
            f"a {self.base.__name__} or its configuration dictionary is needed"
        )

    def serialize(self, thing: T) -> dict[str, Any]:
        """`{"class_name": ..., "config": ...}`: what `deserialize` and Keras' own loader read."""
        if type(thing) not in self.classes:
            raise TypeError(
                f"{self.argument}: got {thing!r}; a {self.base.__name__} of fastreg is needed"
            )
        return {"class_name": type(thing).__name__, "config": thing.get_config()}

    def deserialize(self, config: Mapping[str, Any]) -> T:
        """The object that `serialize` wrote; what Keras writes beside the two is ignored."""
        name = config.get("class_name") if isinstance(config, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(
                f'{self.argument}: got {config!r}; {{"class_name": ..., "config": ...}} is needed'
            )
        return self.find(name).from_config(config.get("config", {}))


def same_name(name: str) -> str:
    """The form in which two spellings of one name are equal.

    >>> same_name("GlorotUniform") == same_name("glorot_uniform")
    True
    """
    return name.replace("_", "").lower()


def snake_case(name: str) -> str:
    """A class name as Keras writes it in strings.

    >>> snake_case("GlorotUniform"), snake_case("AdamW")
    ('glorot_uniform', 'adamw')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower()


def check_bool(argument: str, value: Any) -> bool:
    """`value` as a bool, Python's or NumPy's; TypeError for anything else.

    >>> check_bool("nesterov", True)
    True
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{argument}: got {value!r} ({type(value).__name__}); True or False is needed"
        )
    return bool(value)


def without_arrays(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """`value` for JSON: its arrays stand in `arrays`, under names that begin with `name`.

    >>> arrays = {}
    >>> without_arrays({"best": np.float64(2), "w": [np.zeros(1)]}, "state", arrays)
    {'best': 2.0, 'w': [{'array': 'state/w/0'}]}
    >>> with_arrays({'w': [{'array': 'state/w/0'}]}, arrays)
    {'w': [array([0.])]}
    """
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {key: without_arrays(item, f"{name}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_arrays(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def with_arrays(value: Any, arrays: Mapping[str, Any]) -> Any:
    """What `without_arrays` took apart; tuples are lists now."""
    if isinstance(value, Mapping):
        if set(value) == {"array"}:
            return arrays[value["array"]]
        return {key: with_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [with_arrays(item, arrays) for item in value]
    return value

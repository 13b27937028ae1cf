"""Names and configuration dictionaries of the small objects, in one place.

Regularizers, initializers, losses, metrics and optimizers are all found by name, instance, class or
dictionary, and written as Keras writes them: `{"class_name": "L2", "config": {"l2": 0.01}}`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from fastreg.errors import unknown_name

_scope: ContextVar[Mapping[str, Any]] = ContextVar("custom objects", default=MappingProxyType({}))

OWN = "Custom"  # the class name under which an object of one's own stands in a configuration


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
    wrapper : type, optional
        What an object of one's own with `value` and `gradient` becomes: a class made of it, which
        keeps it as `own`.
    """

    def __init__(
        self,
        argument: str,
        base: type[T],
        classes: Iterable[type[T]],
        aliases: Mapping[str, type[T]] | None = None,
        by_name: Mapping[str, Mapping[str, Any]] | None = None,
        wrapper: Callable[[Any], T] | None = None,
    ) -> None:
        self.argument = argument
        self.base = base
        self.classes = tuple(classes)
        self.names = [snake_case(cls.__name__) for cls in self.classes] + list(aliases or {})
        self._by_name = dict(by_name or {})
        self._wrapper = wrapper
        self._keeps_own = issubclass(base, Configurable)  # values, which any number of owners share
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
            if self._keeps_own and identifier in _scope.get():
                return self.get(_made({"class_name": identifier, "config": {}}, _scope.get()))
            cls = self.find(identifier)
            return cls.from_config(self._by_name.get(cls.__name__, {}))
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        if self._wrapper is not None and is_own(identifier):
            return self._wrapper(identifier)
        own = "" if self._wrapper is None else "an object with value() and gradient(), "
        raise TypeError(
            f"{self.argument}: got {identifier!r}; a name ({', '.join(self.names)}), "
            f"{own}a {self.base.__name__} or its configuration dictionary is needed"
        )

    def serialize(self, thing: T) -> dict[str, Any]:
        """`{"class_name": ..., "config": ...}`: what `deserialize` and Keras' own loader read.

        An object of one's own stands there itself; `own_by_name` is for files.
        """
        if type(thing) in self.classes:
            return {"class_name": type(thing).__name__, "config": thing.get_config()}
        if self._keeps_own and isinstance(thing, self.base):
            return {"class_name": OWN, "config": {"own": getattr(thing, "own", thing)}}
        raise TypeError(
            f"{self.argument}: got {thing!r}; a {self.base.__name__} of fastreg is needed"
        )

    def deserialize(self, config: Mapping[str, Any]) -> T:
        """The object that `serialize` wrote; what Keras writes beside the two is ignored."""
        name = config.get("class_name") if isinstance(config, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(
                f'{self.argument}: got {config!r}; {{"class_name": ..., "config": ...}} is needed'
            )
        arguments = config.get("config", {})
        if name == OWN and self._keeps_own and isinstance(arguments, Mapping):
            return self.get(arguments.get("own"))
        if self._keeps_own and name in _scope.get():
            return self.get(_made(config, _scope.get()))
        return self.find(name).from_config(arguments)


def is_own(thing: object) -> bool:
    """Whether it is an object with `value` and `gradient`, which a loss or a regularizer can be."""
    own = not isinstance(thing, type)
    return own and all(callable(getattr(thing, name, None)) for name in ("value", "gradient"))


def own_by_name(value: Any) -> Any:
    """`value` for a file: of an object of one's own the name of its class and its configuration.

    That is what its `get_config` gives; without one None, or {} for an object without attributes.

    >>> class Own:
    ...     pass
    >>> own_by_name([{"class_name": "Custom", "config": {"own": Own()}}])
    [{'class_name': 'Custom', 'config': {'own': {'class_name': 'Own', 'config': {}}}}]
    """
    return _with_each_own(value, _described)


def own_by_object(value: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    """What `own_by_name` took apart, with the objects that `custom_objects` has for the names.

    Raises
    ------
    TypeError
        For `custom_objects` that are no dictionary with string keys.
    ValueError
        For a name that is not among them, and a class that makes no object of its configuration.
    """
    known = {**_scope.get(), **_checked({} if custom_objects is None else custom_objects)}
    return _with_each_own(value, lambda found: _made(found, known))


class CustomObjectScope:
    """A `with` block in which names mean objects of one's own (Keras' `custom_object_scope`).

    `load_model` finds there what `custom_objects` does not have, and so does every place where
    such an object may stand (losses, regularizers, metrics, ...): its name is as good as the
    object. Blocks may stand in one another; each thread has its own.

    Parameters
    ----------
    custom_objects : mapping of str
        Classes, or objects, by name.

    Raises
    ------
    TypeError
        For what is no dictionary with string keys.

    Examples
    --------
    >>> from fastreg import Dense
    >>> class ToOne:
    ...     def value(self, w):
    ...         return float(((w - 1) ** 2).sum())
    ...     def gradient(self, w):
    ...         return 2 * (w - 1)
    >>> with CustomObjectScope({"ToOne": ToOne}):
    ...     layer = Dense(2, kernel_regularizer="ToOne")
    >>> type(layer.kernel_regularizer.own) is ToOne
    True
    """

    def __init__(self, custom_objects: Mapping[str, Any]) -> None:
        self._objects = dict(_checked(custom_objects))
        self._tokens: list[Token[Mapping[str, Any]]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_scope.set({**_scope.get(), **self._objects}))
        return self

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._tokens.pop())


custom_object_scope = CustomObjectScope


def _checked(custom_objects: Any) -> Mapping[str, Any]:
    if not isinstance(custom_objects, Mapping) or not all(
        isinstance(name, str) for name in custom_objects
    ):
        raise TypeError(
            f"custom_objects: got {custom_objects!r}; a dictionary of classes or objects by name "
            "is needed"
        )
    return custom_objects


def _with_each_own(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        inner = value.get("config")
        if value.get("class_name") == OWN and isinstance(inner, Mapping) and "own" in inner:
            return {"class_name": OWN, "config": {"own": change(inner["own"])}}
        return {key: _with_each_own(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_each_own(item, change) for item in value]
    return value


def _described(own: Any) -> dict[str, Any]:
    name, tell = type(own).__name__, getattr(own, "get_config", None)
    if callable(tell):
        return {"class_name": name, "config": tell()}
    return {"class_name": name, "config": {} if getattr(own, "__dict__", None) == {} else None}


def _made(described: Any, custom_objects: Mapping[str, Any]) -> Any:
    name = described.get("class_name") if isinstance(described, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(f"own: got {described!r}; a class name and a configuration are needed")
    if name not in custom_objects:
        raise ValueError(
            f"custom_objects: got {sorted(custom_objects)}, without {name!r}, an object of one's "
            f"own in it; custom_objects={{{name!r}: its class, or the object}} is needed"
        )
    found, config = custom_objects[name], described.get("config")
    if not isinstance(found, type):
        return found
    if not isinstance(config, Mapping):
        raise ValueError(
            f"custom_objects: got the class {name!r}, whose object was saved without its "
            "configuration, as it has no get_config(); an object of it is needed"
        )
    make = getattr(found, "from_config", None)
    try:
        return make(config) if callable(make) else found(**config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"custom_objects: {name!r} could not be made of {config!r}: {error}"
        ) from error


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

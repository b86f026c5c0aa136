"""``typed``: a codec for the values of one type, made from its type hints.

Each kind of type hint has a **form**, which turns its values into what JSON holds and back, and checks them both times.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Hashable, Iterable
from itertools import repeat
from typing import Any, Final, Generic, Literal, NoReturn, Protocol, TypeVar, cast, overload

import attrs
from attrs import define, field, frozen

from replkv.valuecodec import JSON_LEAVES, Codec, Mismatch, Undecodable, check_plain, from_json, json_bytes

T = TypeVar("T")


class _Form(Protocol):
    """What one type hint says: how its values look in JSON."""

    @property
    def json(self) -> frozenset[type]:
        """The types its values have in JSON."""

    def owns(self, value: object) -> bool:
        """Tell whether a value is of this kind, without looking into it."""

    def dump(self, value: Any) -> Any:
        """Return what stands for the value in JSON; Mismatch if it is not of this kind."""

    def load(self, plain: Any) -> Any:
        """Return the value that something from JSON stands for; Mismatch if that is none."""


def _name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _must_be(what: str, value: object) -> NoReturn:
    raise Mismatch(f"must be {what}, not {type(value).__name__}")


@frozen
class _Leaf:
    kind: type

    @property
    def json(self) -> frozenset[type]:
        return frozenset({self.kind})

    def owns(self, value: object) -> bool:
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))

    def dump(self, value: Any) -> Any:
        return value if self.owns(value) else _must_be(_name(self.kind), value)

    def load(self, plain: Any) -> Any:
        return plain if type(plain) is self.kind else _must_be(_name(self.kind), plain)


@frozen
class _Float:
    """An int will do for a float, if nothing else in a union is an int."""

    json: frozenset[type] = frozenset({float, int})

    def owns(self, value: object) -> bool:
        return isinstance(value, (float, int)) and not isinstance(value, bool)

    def dump(self, value: Any) -> Any:
        return self._float(value) if self.owns(value) else _must_be("float", value)

    def load(self, plain: Any) -> Any:
        return self._float(plain) if type(plain) in self.json else _must_be("float", plain)

    @staticmethod
    def _float(value: float) -> float:
        try:
            return float(value)
        except OverflowError:
            raise Mismatch("is an int beyond the range of a float") from None


@frozen
class _Base64:
    json = frozenset({str})

    def owns(self, value: object) -> bool:
        return isinstance(value, bytes)

    def dump(self, value: Any) -> Any:
        return base64.b64encode(value).decode() if self.owns(value) else _must_be("bytes", value)

    def load(self, plain: Any) -> Any:
        if type(plain) is not str:
            _must_be("the base64 of bytes", plain)
        try:
            return base64.b64decode(plain, validate=True)
        except ValueError:
            raise Mismatch("is no base64") from None


@frozen
class _Anything:
    json = frozenset({types.NoneType, bool, int, float, str, list, dict})

    def owns(self, value: object) -> bool:
        del value
        return True

    def dump(self, value: Any) -> Any:
        check_plain(value, JSON_LEAVES, (str,))
        return value

    def load(self, plain: Any) -> Any:
        return plain


@frozen
class _Enum:
    kind: type[enum.Enum]
    json: frozenset[type]

    def owns(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def dump(self, value: Any) -> Any:
        return value.value if self.owns(value) else _must_be(_name(self.kind), value)

    def load(self, plain: Any) -> Any:
        if type(plain) in self.json:
            try:
                return self.kind(plain)
            except ValueError:
                pass
        raise Mismatch(f"is no {_name(self.kind)}")


@frozen
class _Literal:
    choices: tuple[Any, ...]

    @property
    def json(self) -> frozenset[type]:
        return frozenset(map(type, self.choices))

    def owns(self, value: object) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def dump(self, value: Any) -> Any:
        if not self.owns(value):
            raise Mismatch(f"must be {' or '.join(map(repr, self.choices))}")
        return value

    load = dump


def _all(converts: Iterable[Callable[[Any], Any]], values: Iterable[Any]) -> list[Any]:
    done = []
    for number, (convert, value) in enumerate(zip(converts, values, strict=False)):
        try:
            done.append(convert(value))
        except Mismatch as error:
            raise error.below(f"[{number}]") from None
    return done


@frozen
class _Collection:
    """A list, tuple, set or frozenset whose elements are all of one kind; sets are sorted, so that equal ones have equal bytes."""

    kind: type
    element: _Form
    json = frozenset({list})

    def owns(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def dump(self, value: Any) -> Any:
        if not self.owns(value):
            _must_be(_name(self.kind), value)
        plain = _all(repeat(self.element.dump), value)
        return plain if self.kind in (list, tuple) else sorted(plain, key=json_bytes)

    def load(self, plain: Any) -> Any:
        if type(plain) is not list:
            _must_be(f"the list of a {_name(self.kind)}", plain)
        values = _all(repeat(self.element.load), plain)
        try:
            return self.kind(values)
        except TypeError as error:
            raise Mismatch(f"does not make a {_name(self.kind)}: {error}") from None


@frozen
class _Fixed:
    """A tuple with a kind for each of its elements."""

    elements: tuple[_Form, ...]
    json = frozenset({list})

    def owns(self, value: object) -> bool:
        return isinstance(value, tuple)

    def dump(self, value: Any) -> Any:
        if not self.owns(value):
            _must_be("tuple", value)
        self._check_length(value)
        return _all((form.dump for form in self.elements), value)

    def load(self, plain: Any) -> Any:
        if type(plain) is not list:
            _must_be("the list of a tuple", plain)
        self._check_length(plain)
        return tuple(_all((form.load for form in self.elements), plain))

    def _check_length(self, values: list[Any] | tuple[Any, ...]) -> None:
        if len(values) != len(self.elements):
            raise Mismatch(f"must have {len(self.elements)} elements, not {len(values)}")


@frozen
class _Dict:
    key: _Form
    value: _Form
    json = frozenset({dict})

    def owns(self, value: object) -> bool:
        return isinstance(value, dict)

    def dump(self, value: Any) -> Any:
        return _pairs(self.key.dump, self.value.dump, value) if self.owns(value) else _must_be("dict", value)

    def load(self, plain: Any) -> Any:
        return _pairs(self.key.load, self.value.load, plain) if type(plain) is dict else _must_be("dict", plain)


def _pairs(key_of: Callable[[Any], Any], value_of: Callable[[Any], Any], values: dict[Any, Any]) -> dict[Any, Any]:
    done = {}
    for key, value in values.items():
        try:
            done[key_of(key)] = value_of(value)
        except Mismatch as error:
            raise error.below(f"[{key!r}]") from None
    return done


@frozen
class _Union:
    """One of several kinds, each of which looks different in JSON."""

    forms: tuple[_Form, ...]

    @property
    def json(self) -> frozenset[type]:
        return frozenset[type]().union(*(form.json for form in self.forms))

    def owns(self, value: object) -> bool:
        return any(form.owns(value) for form in self.forms)

    def dump(self, value: Any) -> Any:
        for form in self.forms:
            if form.owns(value):
                return form.dump(value)
        raise Mismatch(f"must not be of type {type(value).__name__}")

    def load(self, plain: Any) -> Any:
        for form in self.forms:
            if type(plain) in form.json:
                return form.load(plain)
        raise Mismatch(f"must not be of type {type(plain).__name__}")


class _Field(typing.NamedTuple):
    """A field of a class: its attribute, the argument that sets it, which is its name in JSON, and whether there must be one."""

    attribute: str
    argument: str
    form: _Form
    required: bool


@define(eq=False)
class _Class:
    """An attrs class, a dataclass or a NamedTuple; exactly that class, for a subclass could hold more."""

    kind: type
    fields: tuple[_Field, ...] = field(default=(), repr=False)
    json = frozenset({dict})

    def owns(self, value: object) -> bool:
        return type(value) is self.kind

    def dump(self, value: Any) -> Any:
        if not self.owns(value):
            _must_be(_name(self.kind), value)
        plain = {}
        for attribute, argument, form, _ in self.fields:
            try:
                plain[argument] = form.dump(getattr(value, attribute))
            except Mismatch as error:
                raise error.below(f".{attribute}") from None
        return plain

    def load(self, plain: Any) -> Any:
        if type(plain) is not dict:
            _must_be(f"the fields of {_name(self.kind)}", plain)
        arguments = {}
        for _, argument, form, required in self.fields:
            if argument in plain:
                try:
                    arguments[argument] = form.load(plain[argument])
                except Mismatch as error:
                    raise error.below(f".{argument}") from None
            elif required:
                raise Mismatch(f"has no {argument}, which {_name(self.kind)} needs")
        try:
            return self.kind(**arguments)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a constructor, its converters and validators raise
            raise Mismatch(f"is refused by {_name(self.kind)}: {error}") from None


# -- from type hints to forms ----------------------------------------------------------------------------------------------------

_LEAVES: Final[dict[Any, _Form]] = {
    None: _Leaf(types.NoneType),
    types.NoneType: _Leaf(types.NoneType),
    bool: _Leaf(bool),
    int: _Leaf(int),
    str: _Leaf(str),
    float: _Float(),
    bytes: _Base64(),
    Any: _Anything(),
}
_COLLECTIONS: Final = (list, tuple, set, frozenset)
_SCALARS: Final = (types.NoneType, bool, int, str)


def _form_of(hint: Any, known: dict[type, _Class]) -> _Form:
    """Return the form of a type hint.

    Args:
        hint: the type, with its arguments.
        known: the classes met so far; they may contain themselves.

    Raises:
        TypeError: values of it have no form in JSON.
    """
    while isinstance(hint, typing.NewType) or typing.get_origin(hint) is typing.Annotated:
        hint = hint.__supertype__ if isinstance(hint, typing.NewType) else hint.__origin__
    if isinstance(hint, Hashable) and hint in _LEAVES:
        return _LEAVES[hint]
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union_of(hint, tuple(_form_of(argument, known) for argument in arguments))
    if origin is Literal:
        return _literal_of(hint, arguments)
    if origin in _COLLECTIONS:
        return _collection_of(origin, arguments, known)
    if origin is dict:
        return _dict_of(hint, arguments or (str, Any), known)
    if isinstance(hint, type) and not arguments:
        return _enum_of(hint) if issubclass(hint, enum.Enum) else _class_of(hint, known)
    return _unknown(hint)


def _unknown(hint: object) -> NoReturn:
    if isinstance(hint, (str, typing.ForwardRef)):
        named = hint if isinstance(hint, str) else hint.__forward_arg__
        raise TypeError(
            f"typed() does not know {named!r}, which is text: write {named} without quotes; only a class's own hints may have them"
        )
    raise TypeError(
        f"typed() does not know {_name(hint)}: it takes attrs classes, dataclasses, NamedTuples, enums, list, tuple, set, frozenset, "
        "dict, unions, Literal, None, bool, int, float, str, bytes and Any; write a codec for other values"
    )


def _union_of(hint: object, forms: tuple[_Form, ...]) -> _Form:
    if any(isinstance(form, _Anything) for form in forms):
        return _Anything()
    if any(int in form.json for form in forms if not isinstance(form, _Float)):
        forms = tuple(_Float(frozenset({float})) if isinstance(form, _Float) else form for form in forms)
    seen: set[type] = set()
    for form in forms:
        if seen & form.json:
            raise TypeError(f"typed({_name(hint)}): two of these look alike in JSON; put them into the fields of a class")
        seen |= form.json
    return _Union(tuple(sorted(forms, key=lambda form: isinstance(form, _Float))))  # an int is a float only where it is nothing else


def _literal_of(hint: object, choices: tuple[Any, ...]) -> _Form:
    if not all(type(choice) in _SCALARS for choice in choices):
        raise TypeError(f"typed({_name(hint)}): a Literal may hold None, bool, int and str")
    return _Literal(choices)


def _collection_of(kind: type, arguments: tuple[Any, ...], known: dict[type, _Class]) -> _Form:
    if kind is tuple and arguments and arguments[-1] is not ...:
        return _Fixed(tuple(_form_of(argument, known) for argument in arguments))
    return _Collection(kind, _form_of(arguments[0] if arguments else Any, known))


def _dict_of(hint: object, arguments: tuple[Any, ...], known: dict[type, _Class]) -> _Form:
    key, value = (_form_of(argument, known) for argument in arguments)
    if key.json != {str}:
        raise TypeError(f'typed({_name(hint)}): keys are text in JSON; use dict[str, …], or codec="msgpack"')
    return _Dict(key, value)


def _enum_of(kind: type[enum.Enum]) -> _Form:
    found = frozenset(type(member.value) for member in kind)
    if not found or not found <= set(_SCALARS):
        raise TypeError(f"typed({_name(kind)}): the values of its members must be None, bool, int or str")
    return _Enum(kind, found)


def _class_of(kind: type, known: dict[type, _Class]) -> _Form:
    if kind in known:
        return known[kind]
    names = _field_names(kind)
    form = known[kind] = _Class(kind)
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise TypeError(f"typed({_name(kind)}): {error}; annotations must be names that its module has when it runs") from None
    parameters = inspect.signature(kind).parameters.values()
    required = {one.name for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    if missing := sorted(required - set(names)):
        raise TypeError(f"typed({_name(kind)}): its constructor needs {', '.join(missing)}, which no field of that name holds")
    if untold := [attribute for attribute in names.values() if attribute not in hints]:
        raise TypeError(f"typed({_name(kind)}): {', '.join(untold)} has no type hint")
    form.fields = tuple(
        _Field(attribute, argument, _form_of(hints[attribute], known), argument in required) for argument, attribute in names.items()
    )
    return form


def _field_names(kind: type) -> dict[str, str]:
    """Return which attribute each argument of a class's constructor sets; fields that it does not take are left out."""
    if attrs.has(kind):
        return {one.alias or one.name: one.name for one in attrs.fields(kind) if one.init}
    if dataclasses.is_dataclass(kind):
        return {one.name: one.name for one in dataclasses.fields(kind) if one.init}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return {name: name for name in kind._fields}
    return _unknown(kind)


@frozen(repr=False)
class _Typed(Generic[T]):
    form: _Form
    name: str

    def encode(self, value: T, /) -> bytes:
        try:
            return json_bytes(self.form.dump(value))
        except Mismatch as error:
            raise TypeError(f"{self!r} can't encode this: {error}") from None
        except RecursionError:
            raise ValueError(f"{self!r} can't encode this: it is nested too deep, or contains itself") from None

    def decode(self, data: bytes, /) -> T:
        plain = from_json(data)
        try:
            return cast("T", self.form.load(plain))
        except Mismatch as error:
            raise Undecodable(f"no {self.name}: {error}") from None
        except RecursionError:
            raise Undecodable(f"no {self.name}: nested too deep") from None

    def __repr__(self) -> str:
        return f"typed({self.name})"


@overload
def typed(kind: type[T]) -> Codec[T]: ...
@overload
def typed(kind: Any) -> Codec[Any]: ...
def typed(kind: Any) -> Codec[Any]:
    """Return a codec for values of one type: JSON, checked against the type hints in both directions.

    It takes attrs classes, dataclasses and NamedTuples, which become objects with their constructor's arguments as names; list, tuple,
    set, frozenset and ``dict[str, …]``; enums, by their values; bytes, as base64; Literal, None, bool, int, float, str, and Any for what
    JSON has; unions such as ``X | None`` whose members look different in JSON; and all of these inside each other.

    A field that is missing gets its default, and one that the class does not know is passed over: a class may gain and lose fields while
    members of both versions run.  Fields with ``init=False`` are not stored.  A subclass is refused: its further fields would be lost.

    Args:
        kind: the type.  Type checkers take a union for Any; say which with ``codec: Codec[int | None] = typed(int | None)``.

    Raises:
        TypeError: values of this type, or of one within it, could not be stored and read back.
    """
    return _Typed(_form_of(kind, {}), _name(kind))

"""Settings: what a value written as text means, and the types of what a user sets.

Two kinds of text are read. Recipes and `--set key=value` are YAML. Options behind a name, as in `a.pth?gamma=2` and
`cls:block=-2`, are read by `value_of`. Both are then held against the same types. No text counts as a number, nor "no"
as false, with one exception: where a number is wanted, `1e-3` is one, since YAML 1.1 takes numbers with an exponent and
without a point and a sign for text. Where a whole number is wanted, 128.0 is one, and text never is.
"""

from __future__ import annotations

import inspect
import json
import math
import numbers
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AllowInfNan,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    StrictBool,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from simpool_viz.errors import OptionError

T = TypeVar("T")
WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII)
# Wanted in plain words, by pydantic's type of the error; what is not here is said in pydantic's own.
WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "none_required": "none",
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}

# --- text ---


def value_of(text: str) -> Any:
    """The value that a text stands for.

    Args:
        text: "true", "false", "none" or "null" in any case; a number; numbers joined by "+", which make a list, or by
            "x", which make a tuple.

    Returns:
        A bool, None, an int, a float, a list or a tuple of numbers; any other text as it is.
    """
    word = text.strip().lower()
    if word in WORDS:
        return WORDS[word]
    if NUMBER.fullmatch(word) and math.isfinite(float(word)):
        return int(word) if word.lstrip("+-").isdigit() else float(word)
    for sign, kind in (("+", list), ("x", tuple)):
        parts = word.split(sign)
        if len(parts) > 1 and all(map(NUMBER.fullmatch, parts)):
            return kind(value_of(part) for part in parts)
    return text


def pairs_of(text: str, separator: str, example: str) -> dict[str, str]:
    """The options of a text, "block=-2,rollout=true" -> {"block": "-2", "rollout": "true"}.

    Args:
        separator: what stands between two of them.
        example: how such options are written, for the error's sentence.

    Raises:
        OptionError: one of them is not key=value, or is given twice.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise OptionError(
                f"{part!r} in {text!r}: options are written key=value, with {separator} between them, as in {example}"
            )
        if key in pairs:
            raise OptionError(f"the option {key} is given twice in {text!r}")
        pairs[key] = value
    return pairs


# --- types ---


def _whole(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value).is_integer():
        return int(float(value))
    if isinstance(value, str):
        like = NUMBER.fullmatch(value.strip().lower())
        wanted = "a whole number (in digits, without quotes and exponent)" if like else "a number"
        raise PydanticCustomError("whole", wanted)  # type: ignore[arg-type]
    raise PydanticCustomError("whole", "a whole number")


def _number(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return math.inf
    if isinstance(read := _with_exponent(value), float):
        return read
    raise PydanticCustomError("number", "a number")


def _with_exponent(value: Any) -> Any:
    """A number where YAML 1.1 leaves one as text, as in `1e-3`; lists and tables with such numbers in them."""
    if isinstance(value, str) and (found := NUMBER.fullmatch(value.lower())) and found[2]:
        return float(value)
    if isinstance(value, list):
        return [_with_exponent(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_exponent(item) for key, item in value.items()}
    return value


Flag = StrictBool
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**63), lt=2**63)]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
CropArea = Annotated[Number, Field(gt=0, le=1)]  # as a share of a photo's
# Options for a function of another library, whose own signature says which there are.
Table = Annotated[dict[str, Any], BeforeValidator(_with_exponent)]
CLOSED = ConfigDict(extra="forbid")  # for `__pydantic_config__`: settings that are not fields are refused


def fields_of(kind: Any) -> Any:
    """Annotation of a dict that is checked as the TypedDict `kind`, and stays a dict for its readers."""
    return GetPydanticSchema(lambda _, handler: handler(kind))


# --- checking ---


def checked(adapter: TypeAdapter[T], given: Any, refuse: Callable[[str], Exception], form: str = "{} is") -> T:
    """What is given, as the adapter's type.

    Args:
        given: tables and lists as YAML and JSON have them.
        refuse: makes the error from a sentence that names each key, what is given and what is wanted.
        form: how a key begins its sentence.

    Raises:
        What `refuse` makes: a key is missing or unknown, or its value is of the wrong kind or out of range.
    """
    try:
        return adapter.validate_python(given)
    except ValidationError as error:
        faults = [_sentence(fault, form, adapter) for fault in error.errors(include_url=False)]
    more = f" (and {len(faults) - 4} more)" if len(faults) > 4 else ""
    raise refuse("; ".join(faults[:4]) + more)


def check_arguments(function: Callable[..., Any], options: Mapping[str, Any], form: str) -> None:
    """Hold options against the annotations of a function or class that they are for.

    Values that no text can give, such as modules, and options that it does not name are left to the function itself.

    Args:
        form: how an option begins its sentence, such as "pooling_options.{} is".

    Raises:
        OptionError: a value is of another kind than annotated.
    """
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    for key, value in options.items():
        try:
            plain = json.dumps(value)
        except (TypeError, ValueError):
            continue
        if key not in hints:
            continue
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_json(plain, strict=True)
        except ValidationError as error:
            wanted = dict.fromkeys(map(_wanted, error.errors(include_url=False)))
            if type(None) in typing.get_args(hints[key]):
                wanted["none"] = None
            raise OptionError(f"{form.format(key)} {' or '.join(wanted)}, not {_shown(value)}") from None


def _sentence(fault: ErrorDetails, form: str, adapter: TypeAdapter[Any]) -> str:
    *above, last = fault["loc"] or ("it",)
    key = _dotted((*above, last))
    if fault["type"].startswith("missing"):
        return f"{last!r} is missing" + (f" in {_dotted(above)}" if above else "")
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"there is no setting {key}: {last!r} is none of {', '.join(_names_at(adapter, above))}"
    return f"{form.format(key)} {_wanted(fault)}, not {_shown(fault['input'])}"


def _wanted(fault: ErrorDetails) -> str:
    return WANTED.get(fault["type"], fault["msg"].removeprefix("Input should be ")).format(**fault.get("ctx", {}))


def _dotted(location: typing.Iterable[int | str]) -> str:
    """("stages", 0, "squeeze") -> "stages[0].squeeze"."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location if step != "[key]")
    return "".join(steps).removeprefix(".")


def _shown(value: Any) -> str:
    """A value as a user knows it, cut where it is long."""
    text = repr(value) if value is not None and not isinstance(value, bool) else str(json.dumps(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _names_at(adapter: TypeAdapter[Any], location: typing.Iterable[int | str]) -> list[str]:
    """The keys that there are at a place, from the schema of the whole."""
    whole: Any = adapter.json_schema()

    def resolved(node: Any) -> Any:
        """The table itself, of one that may be left out (`| None`) too."""
        node = next((one for one in node.get("anyOf", ()) if one.get("type") != "null"), node)
        return whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    node = whole
    for step in location:
        inner = resolved(node)
        node = inner.get("properties", {}).get(step) or inner.get("items") or inner.get("additionalProperties")
    return list(resolved(node)["properties"])

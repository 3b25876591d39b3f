"""What goes into a model, and what comes out? The `interface:` part of `xumi.yaml` (mission X1).

The same rules are enforced at run time by `xumi.contract`, from the JSON copy of the manifest inside the image.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from berth.authoring.hardware import Bytes, Part
from xumi.contract import check_value
from xumi.problems import InvalidValue
from xumi.schema import check_schema

FieldName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Lower case; the argument's name in predict().")
]
MediaType = Annotated[str, Field(pattern=r"^[a-z]+/(?:\*|[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126})$", max_length=200)]


Length = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,31}$")] | None


class _Value(Part):
    """What all kinds of values share."""

    name: FieldName
    title: str | None = Field(default=None, max_length=120, description="Short label for people.")
    description: str | None = Field(default=None, max_length=4000, description="What it means.")
    required: bool = Field(default=True, description="Whether a call must give it; false when there is a default.")
    default: Any = Field(default=None, description="Used when a call leaves it out.")

    @model_validator(mode="after")
    def _default_fits(self) -> _Value:
        if "default" not in self.model_fields_set:
            return self
        if "required" in self.model_fields_set and self.required:
            raise ValueError("a value with a default is not required; remove `required: true` or `default`")
        try:
            check_value(self.model_dump(mode="json", by_alias=True), self.default)
        except InvalidValue as error:
            raise ValueError(f"the default does not fit: {error}") from error
        return self

    @property
    def optional(self) -> bool:
        """Whether a call may leave it out."""
        return not self.required or "default" in self.model_fields_set


class TextValue(_Value):
    """Text."""

    type: Literal["text"]
    min_length: int | None = Field(default=None, ge=0, description="Fewest characters.")
    max_length: int | None = Field(default=None, ge=0, description="Most characters.")
    pattern: str | None = Field(default=None, max_length=1000, description="Regular expression the text must contain.")

    @model_validator(mode="after")
    def _pattern_compiles(self) -> TextValue:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
        _ordered(self.min_length, self.max_length, "min_length", "max_length")
        return self


class IntegerValue(_Value):
    """A whole number."""

    type: Literal["integer"]
    minimum: int | None = None
    maximum: int | None = None

    @model_validator(mode="after")
    def _bounds(self) -> IntegerValue:
        _ordered(self.minimum, self.maximum, "minimum", "maximum")
        return self


class NumberValue(_Value):
    """A number."""

    type: Literal["number"]
    minimum: int | float | None = None
    maximum: int | float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> NumberValue:
        _ordered(self.minimum, self.maximum, "minimum", "maximum")
        return self


class BooleanValue(_Value):
    """true or false."""

    type: Literal["boolean"]


class EnumValue(_Value):
    """One of a few words."""

    type: Literal["enum"]
    values: list[str] = Field(min_length=1, max_length=10_000, description="The words.")

    @model_validator(mode="after")
    def _distinct(self) -> EnumValue:
        if len(set(self.values)) != len(self.values):
            raise ValueError("values holds a word twice")
        return self


class ObjectValue(_Value):
    """A JSON value described by a JSON Schema."""

    type: Literal["object"]
    json_schema: dict[str, Any] = Field(
        default={}, alias="schema", description="JSON Schema (the keywords xumi.schema knows)."
    )

    @model_validator(mode="after")
    def _schema_is_known(self) -> ObjectValue:
        try:
            check_schema(self.json_schema)
        except InvalidValue as error:
            raise ValueError(f"schema: {error}") from error
        return self


class TensorValue(_Value):
    """An array of numbers."""

    type: Literal["tensor"]
    dtype: Literal[
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]
    shape: list[Length] = Field(
        max_length=16, description="Length of each dimension; a word or null where any length is allowed."
    )


class MediaValue(_Value):
    """Bytes of a known kind: an image, sound, video, or any file."""

    type: Literal["image", "audio", "video", "file"]
    media_types: list[MediaType] = Field(default=[], description="Accepted media types; empty means any of the kind.")
    max_size: Bytes | None = Field(default=None, description="Most bytes.")


Value = Annotated[
    TextValue | IntegerValue | NumberValue | BooleanValue | EnumValue | ObjectValue | TensorValue | MediaValue,
    Field(discriminator="type"),
]


class Interface(Part):
    """The contract between the model and whoever calls it."""

    inputs: list[Value] = Field(default=[], max_length=200, description="Arguments of predict().")
    outputs: list[Value] = Field(default=[], max_length=200, description="What predict() returns.")
    streaming: bool = Field(
        default=False, description="predict() yields its outputs piece by piece; a call is answered with JSON lines."
    )
    open_inference: bool = Field(
        default=False, description="Also answer the Open Inference Protocol v2 below /v2; tensors only."
    )

    @model_validator(mode="after")
    def _protocols_fit(self) -> Interface:
        others = [v.name for v in (*self.inputs, *self.outputs) if v.type != "tensor"]
        if self.open_inference and (others or not self.outputs):
            raise ValueError(
                f"open_inference is for tensors only; {others[0]} is none" if others else "open_inference needs outputs"
            )
        if self.open_inference and self.streaming:
            raise ValueError("open_inference has no streaming; leave one of them out")
        if self.streaming and any(v.name == "error" for v in self.outputs):
            raise ValueError(
                "an output of a streaming model must not be named error; failures are sent under that name"
            )
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Interface:
        for side, values in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [v.name for v in values]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{side} has the name {twice[0]} twice")
        for value in self.outputs:
            if "default" in value.model_fields_set:
                raise ValueError(f"output {value.name} has a default; only inputs have one")
        return self


def _ordered(low: float | None, high: float | None, low_name: str, high_name: str) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} is greater than {high_name}")

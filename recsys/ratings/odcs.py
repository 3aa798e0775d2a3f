"""The file of a contract, in the fields of the Open Data Contract Standard 3.1 (https://bitol.io).

What the standard has no field for stands under ``customProperties``, where it allows anything; which keys those are,
`recsys.ratings.contract` says. Fields of the standard that mean nothing to this system are allowed and not read.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from recsys.params import Section

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]

LogicalType = Literal["string", "number", "timestamp", "boolean"]


class _Part(Section):
    """A part of the file; its fields are spelled as the standard spells them."""

    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)


class _Described(_Part):
    """What the standard allows nearly everywhere."""

    id: str | None = None
    description: Any = None
    tags: Any = None
    authoritative_definitions: Any = None


class CustomProperty(_Part):
    """One key of ours."""

    id: str | None = None
    property: str
    value: Any
    description: str | None = None


class TypeOptions(_Part):
    """Limits of a property's values, both ends included; a time is text in ISO 8601 with its zone."""

    minimum: float | str | datetime | None = None
    maximum: float | str | datetime | None = None
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=1)


class Property(_Described):
    """A column; ``transformSourceObjects`` are the names that sources give it, the first that a file has is taken."""

    name: str
    logical_type: LogicalType
    physical_type: str | None = None
    logical_type_options: TypeOptions = TypeOptions()
    required: bool = False
    unique: bool = False
    primary_key: bool = False
    primary_key_position: int = -1
    business_name: str | None = None
    classification: str | None = None
    critical_data_element: bool | None = None
    examples: Any = None
    transform_source_objects: Names | None = None
    transform_logic: str | None = None
    transform_description: str | None = None
    custom_properties: Many[CustomProperty] = ()


class Quality(_Described):
    """A check of a whole batch; only the number of its rows is one here."""

    type: Literal["library"] = "library"
    name: str | None = None
    metric: Literal["rowCount"]
    must_be_between: Annotated[tuple[int, int], Field(strict=False)]
    unit: Literal["rows"] = "rows"
    dimension: str | None = None
    severity: str | None = None
    business_impact: str | None = None


class SchemaObject(_Described):
    """The one object of a contract."""

    name: str
    logical_type: Literal["object"] = "object"
    physical_type: str | None = None
    physical_name: str | None = None
    business_name: str | None = None
    data_granularity_description: str | None = None
    properties: Annotated[tuple[Property, ...], Field(strict=False, min_length=1)]
    quality: Many[Quality] = ()
    custom_properties: Many[CustomProperty] = ()


class Team(_Described):
    """Who owns the data."""

    name: str = Field(min_length=1)
    members: Any = None
    custom_properties: Any = None


class SupportChannel(_Described):
    """Where the owner is reached."""

    channel: str = Field(min_length=1)
    url: str | None = None
    tool: str | None = None
    scope: str | None = None
    invitation_url: str | None = None
    custom_properties: Any = None


class SlaProperty(_Part):
    """One promise about the whole."""

    id: str | None = None
    property: str
    value: Any
    value_ext: Any = None
    unit: str | None = None
    element: str | None = None
    driver: str | None = None
    description: str | None = None
    scheduler: str | None = None
    schedule: str | None = None


class ContractFile(_Described):
    """A whole file."""

    api_version: Literal["v3.0.0", "v3.0.1", "v3.0.2", "v3.1.0"]
    kind: Literal["DataContract"]
    id: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    name: str | None = None
    version: str = Field(min_length=1)
    status: str
    tenant: str | None = None
    domain: str | None = None
    data_product: str | None = None
    contract_created_ts: Any = None
    servers: Any = None
    price: Any = None
    roles: Any = None
    team: Team
    support: Annotated[tuple[SupportChannel, ...], Field(strict=False, min_length=1)]
    schema_: Annotated[tuple[SchemaObject, ...], Field(strict=False, min_length=1, max_length=1, alias="schema")]
    sla_default_element: str | None = None
    sla_properties: Many[SlaProperty] = ()
    custom_properties: Many[CustomProperty] = ()


def custom_values(properties: Sequence[CustomProperty]) -> dict[str, Any]:
    """Our keys and what they say.

    Raises:
        ValueError: a key stands there twice.
    """
    found: dict[str, Any] = {}
    for custom in properties:
        if custom.property in found:
            raise ValueError(f"customProperties name '{custom.property}' twice")
        found[custom.property] = custom.value
    return found

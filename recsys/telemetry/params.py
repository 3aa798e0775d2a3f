"""Where figures and run events go."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from recsys.params import Section, without_password


def _without_secret(address: str) -> str:
    if re.match(r"https?://", address) is None:
        raise ValueError("input should begin with http:// or https://")
    if without_password(address) != address:
        raise ValueError("a user or password has no place here: give a key by OPENLINEAGE_API_KEY")
    return address


def _appendable(path: str) -> str:
    if path.endswith(".jsonl") and re.match(r"(?!file:)[a-z0-9]+:", path):
        raise ValueError("only a local file can be appended to: name a folder there, which gets one file a run")
    return path


class MetricsParams(Section):
    """Figures in Prometheus' text format."""

    folder: str | None = None  # what node_exporter's --collector.textfile.directory names; one warehouse a folder


class LineageParams(Section):
    """Run events in the OpenLineage format."""

    path: Annotated[str, AfterValidator(_appendable)] | None = None  # a local .jsonl file, or a folder: one file a run
    url: Annotated[str, AfterValidator(_without_secret)] | None = None  # of a collector
    namespace: str = Field(default="recsys", min_length=1)  # of our jobs

"""docker-compose.yml as Compose reads it: with the variables of a .env in their places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
#: The services as they are written.
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
#: Which variable has the password of each user of docs/farm/redis.sh.
PASSWORD_OF = {
    "default": "REDISCLI_AUTH",
    "loader": "REDIS_WORKER_PASSWORD",
    "inference": "REDIS_WORKER_PASSWORD",
    "ledger": "REDIS_LEDGER_PASSWORD",
    "watcher": "REDIS_WATCHER_PASSWORD",
}

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<other>[^}]*))?\})"
)
#: Packages that the image `stage` lacks, as they are imported.
LEFT_OUT = {"astroNN", *re.findall(r"--prune (\S+)", DOCKERFILE)}


def variables(text: str) -> set[str]:
    """The variables that Compose would fill in."""
    uncommented = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    return {found["name"] for found in _VARIABLE.finditer(uncommented) if found["name"]}


def filled(value: Any, given: Mapping[str, str]) -> Any:
    """A part of the file with its variables filled in; an unset required one is a LookupError."""
    match value:
        case str():
            return _VARIABLE.sub(lambda found: _fill(found, given), value)
        case list():
            return [filled(each, given) for each in value]
        case dict():
            return {name: filled(each, given) for name, each in value.items()}
    return value


def _fill(found: re.Match[str], given: Mapping[str, str]) -> str:
    if found["escaped"]:
        return "$"
    if value := given.get(found["name"]):
        return value
    if found["kind"] != ":-":
        raise LookupError(f"{found['name']} is required: {found['other']}")
    return found["other"]


def seconds(duration: str) -> float:
    """A duration that is written in seconds."""
    return float(duration.removesuffix("s"))

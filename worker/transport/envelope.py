"""What a message to a stage looks like in Redis: ours in Celery's wrapping, in kombu's.

Whoever may write to Redis may write anything, and much of it would end the worker that takes it,
then the next one. So each message is checked as a whole before kombu and Celery see it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worker.messages import Message, is_of_our_version
from worker.queues import ALL_QUEUES

#: Thousands of spectra, each with its labels, take less.
_MOST_BYTES = 32 * 2**20
#: A message that is to be tried again waits half a minute; hosts' clocks may differ.
_FARTHEST_ETA = timedelta(hours=1)

#: The messages that this process serves, by the names of their tasks.
_SERVED: dict[str, type[Message]] = {}


class NoMessageError(ValueError):
    """What lies in a queue is no message of ours; the text is why."""


def serve(task: str, message_type: type[Message]) -> None:
    """Let messages of this type pass, for the task of this name."""
    _SERVED[task] = message_type


def unwrapped(content: bytes) -> bytes:
    """A message as kombu may have it: what it does not have to know is left out.

    A message of a version that is not ours passes too: its task lets its jobs wait again.

    Raises
    ------
    NoMessageError
        It is none that this process serves.
    """
    if len(content) > _MOST_BYTES:
        raise NoMessageError(f"{len(content)} bytes are too many")
    try:
        envelope = _Envelope.model_validate_json(content, strict=True)
        _check_body(envelope.headers.task, envelope.body)
    except ValidationError as error:
        raise NoMessageError(_first_of(error)) from error
    except (ValueError, RecursionError) as error:
        raise NoMessageError(f"body: {error}") from error
    return envelope.model_dump_json(by_alias=True, exclude_unset=True).encode()


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _check_body(task: str, body: str) -> None:
    """Make sure that a task is called with one message, and without anything else."""
    call = json.loads(
        base64.b64decode(body, validate=True), parse_float=_finite, parse_constant=_no_number
    )
    match call:
        case [[dict(message)], named, embedded] if not named and _is_empty(embedded):
            message_type = _SERVED[task]
            if is_of_our_version(message, message_type):
                message_type.model_validate(message)
        case _:
            raise ValueError("it is no call with one message")


def _is_empty(embedded: Any) -> bool:
    """Whether no other task is to follow."""
    return isinstance(embedded, dict) and not any(embedded.values())


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _check(condition: Callable[[str], bool], what: str) -> AfterValidator:
    def checked(text: str) -> str:
        if not condition(text):
            raise ValueError(what)
        return text

    return AfterValidator(checked)


def _is_near(moment: str) -> bool:
    at = datetime.fromisoformat(moment)
    return at.year > 2000 and at <= datetime.now(UTC) + _FARTHEST_ETA


#: Celery logs it.
_Id = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]
_Seconds = Annotated[float, Field(ge=1, le=3600)] | None
_Moment = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+\d\d:\d\d$"),
    _check(_is_near, "it is not near"),
]
_Task = Annotated[str, _check(lambda task: task in _SERVED, "this worker has no such task")]
_Queue = Annotated[str, _check(lambda queue: queue in ALL_QUEUES, "there is no such queue")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Headers(_Part):
    task: _Task
    id: _Id
    lang: Literal["py"]
    retries: int = Field(0, ge=0, lt=2**31)
    eta: _Moment | None = None
    expires: None = None
    timelimit: tuple[_Seconds, _Seconds] = (None, None)
    shadow: None = None
    compression: None = None
    root_id: _Id | None = None
    parent_id: _Id | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    redelivered: bool = False


class _DeliveryInfo(_Part):
    exchange: Literal[""]
    routing_key: _Queue
    redelivered: bool = False


class _Properties(_Part):
    correlation_id: _Id | None = None
    reply_to: _Id | None = None
    delivery_mode: int = 2
    delivery_info: _DeliveryInfo
    priority: int = Field(0, ge=0, le=9)
    body_encoding: Literal["base64"]
    delivery_tag: _Id


class _Envelope(_Part):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties

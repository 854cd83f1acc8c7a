"""Settings, read from the environment when a process first asks for them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import FatalError
from worker.redis_url import checked_redis_url
from worker.starter.bundled import STARTER, bundled_with, weights_path

PREFIX = "ASTRONN_STREAM_"

#: Where to compute; ``auto``: on a GPU where there is one.
Device = Literal["auto", "cpu", "cuda"]

#: What a stack serves beside its model; what has one set of weights keeps to that.
ALSO = ("also_models", "also_corrections")

_SQLITE = "sqlite:///"
#: A socket's path has some 100 characters, of which our own names below the folder take half.
_LONGEST_SOCKET_FOLDER = 50


class Settings(BaseSettings):
    """What can be configured. Each field is the variable ``ASTRONN_STREAM_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # a URL that cannot be used may hold a password
    )

    broker_url: str | None = Field(None, repr=False)
    arrays_url: str | None = Field(None, repr=False)
    database_url: str = Field(f"{_SQLITE}astronn-stream.sqlite", repr=False)
    data_root: Path = Path("/")
    model: Path | None = None
    corrections: Path | None = None
    also_models: str = Field("", description="other weights that are served beside the model")
    also_corrections: str = Field("", description="their noise models, each naming its weights")

    device: Device = "auto"
    mc_samples: int = Field(100, ge=2)
    seed: int = Field(0, ge=0, lt=2**63)
    coadd_mask: Literal["and", "or"] = "and"

    chunk_size: int = Field(32, ge=1, description="spectra per message")
    batch_size: int = Field(
        0, ge=0, description="spectra per inference batch; 0: 32 on the CPU, 64 on a GPU"
    )
    batch_wait: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="seconds that an idle device waits for more"
    )
    array_ttl: int = Field(3600, ge=1, description="seconds that normalised flux is kept")
    load_processes: int = Field(0, ge=0, description="0: one per core, less one for inference")
    infer_threads: int = Field(4, ge=1)

    in_flight: int = Field(4096, ge=1, description="spectra of a lane that are under way at most")
    infer_backlog: int = Field(
        64, ge=1, description="messages before inference at which loaders of bulk pause"
    )
    job_seconds: int = Field(900, ge=1, description="seconds that a worker may hold a job")
    max_attempts: int = Field(5, ge=1, description="times that a job is sent before it is given up")

    @field_validator("broker_url", "arrays_url")
    @classmethod
    def _understood_by_both(cls, url: str | None, info: ValidationInfo) -> str | None:
        socket_scheme = "redis+socket" if info.field_name == "broker_url" else "unix"
        return None if url is None else checked_redis_url(url, socket_scheme)

    @field_validator("database_url")
    @classmethod
    def _absolute_database(cls, url: str) -> str:
        # Every process of a stack must open the same file, wherever it was started.
        if url.startswith(_SQLITE) and not url.startswith(_SQLITE + "/"):
            return _SQLITE + str(Path(url.removeprefix(_SQLITE)).resolve())
        return url

    @field_validator("model", mode="before")
    @classmethod
    def _named_weights(cls, given: object) -> object:
        return weights_path(given) if isinstance(given, str | Path) else given

    @field_validator("data_root", "model", "corrections")
    @classmethod
    def _absolute_path(cls, path: Path | None) -> Path | None:
        return None if path is None else path.resolve()

    @field_validator("also_models", "also_corrections")
    @classmethod
    def _absolute_paths(cls, paths: str, info: ValidationInfo) -> str:
        path_of = weights_path if info.field_name == "also_models" else Path
        return os.pathsep.join(str(path_of(each).resolve()) for each in _split(paths))

    @property
    def broker(self) -> str:
        """The broker's URL: the one configured, or the socket of the embedded redis-server."""
        return self.broker_url or socket_broker_url(self.stack_directory)

    @property
    def arrays(self) -> str:
        """The array store's URL for redis-py: the one configured, or the broker's database 1."""
        return self.arrays_url or redis_py_url(self.broker, 1)

    @property
    def stack_directory(self) -> Path:
        """Where ``up`` keeps the socket of its embedded redis-server.

        It depends on the user and the database alone, so that ``enqueue`` and ``status`` in
        another terminal find it.
        """
        database = hashlib.blake2b(self.database_url.encode(), digest_size=6).hexdigest()
        return socket_folder() / f"{_stack_prefix()}{database}"

    @property
    def weights_file(self) -> Path:
        """The weights to use: those configured, or the starter weights."""
        return self.model or STARTER.weights

    @property
    def weights_files(self) -> tuple[Path, ...]:
        """All weights that are served, those to use by default first."""
        return tuple(dict.fromkeys((self.weights_file, *map(Path, _split(self.also_models)))))

    @property
    def also_corrections_files(self) -> tuple[Path, ...]:
        """The noise models of the weights that are served beside the model."""
        return tuple(map(Path, _split(self.also_corrections)))

    def corrections_files(self, weights: str) -> tuple[Path, ...]:
        """Where to look for the noise model for labels of the weights with this SHA-256.

        The first that fits them counts: what is configured, then for weights that come with
        the package their own. A recorder therefore need not know what inference serves.
        """
        configured = [] if self.corrections is None else [self.corrections]
        configured += self.also_corrections_files
        bundled = bundled_with(weights)
        return (*configured, *([bundled.corrections] if bundled else []))

    @property
    def loaders(self) -> int:
        """How many processes the load worker forks."""
        return self.load_processes or max(1, usable_cores() - 1)

    def changed(self, **values: object) -> Self:
        """A copy with some values replaced and validated; None leaves a value as it is."""
        given = {name: value for name, value in values.items() if value is not None}
        return type(self)(**{**self.model_dump(), **given})

    def apart(self, *names: str, **changes: object) -> Self:
        """A copy in which some settings have their defaults, and others these values.

        For commands that keep to themselves, whatever stack and database are configured.
        """
        defaults = {name: type(self).model_fields[name].default for name in names}
        return type(self)(**{**self.model_dump(), **defaults}).changed(**changes)

    def environment(self) -> dict[str, str]:
        """These settings as environment variables for a child process.

        None is an empty variable, which counts as none: it takes the place of the parent's.
        """
        return {
            PREFIX + name.upper(): "" if value is None else str(value)
            for name, value in self.model_dump().items()
        }


def _split(paths: str) -> list[str]:
    return [each for each in paths.split(os.pathsep) if each]


def usable_cores() -> int:
    """The cores that this process may use: on Linux those it is bound to, elsewhere all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def socket_folder() -> Path:
    """The folder for temporary files, or /tmp where its path is too long for a unix socket's."""
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= _LONGEST_SOCKET_FOLDER else Path("/tmp")  # noqa: S108


def _stack_prefix() -> str:
    return f"astronn-stream-{os.getuid()}-"


def is_stack_directory(folder: Path) -> bool:
    """Whether a folder has the name of a :attr:`Settings.stack_directory` of this user.

    The name can be foretold, so that anybody may have made the folder before.
    """
    return folder.name.startswith(_stack_prefix())


def socket_broker_url(directory: Path) -> str:
    """The Celery URL of a redis-server whose socket lies in ``directory``."""
    return f"redis+socket://{directory / 'redis.sock'}?virtual_host=0"


def redis_py_url(broker_url: str, database: int | None = None) -> str:
    """What redis-py calls the broker of Celery, or another database of the same server."""
    parts = urlsplit(broker_url)
    if parts.scheme == "redis+socket":
        own = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        return f"unix://{parts.netloc}{parts.path}?db={own if database is None else database}"
    return broker_url if database is None else urlunsplit(parts._replace(path=f"/{database}"))


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises
    ------
    FatalError
        A variable has a value that cannot be used; the text names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise FatalError(f"{name} cannot be used: {reason}.") from error

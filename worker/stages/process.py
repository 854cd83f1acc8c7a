"""What the process of a worker opens once, and hands to its tasks."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from worker.settings import Settings, get_settings, redis_py_url
from worker.stages.admission import Admission
from worker.transport.arrays import ArrayStore
from worker.transport.broker import Broker
from worker.transport.connection import connect
from worker.transport.crash_guard import CrashGuard

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.inference.inference import Inference
    from worker.results.noise_model import NoiseModel


class Process:
    """Connections, network and noise model of one process; what costs is opened on first use.

    Attributes
    ----------
    client
        The broker's Redis, besides Celery's own connections.
    broker, arrays, crash_guard
        What lies in Redis.
    admission
        Whose turn it is at the device.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = connect(redis_py_url(settings.broker))
        self.broker = Broker(self.client, settings.broker)
        self.arrays = ArrayStore(settings.arrays, settings.array_ttl)
        self.crash_guard = CrashGuard(settings.arrays)
        self.admission = Admission(settings.infer_threads)
        self._opening = threading.Lock()
        self._inference: Inference | None = None
        self._database: Engine | None = None
        self._noise_models: dict[str, NoiseModel] = {}

    @property
    def inference(self) -> Inference:
        """The networks, which the threads of the pool share.

        Raises
        ------
        FatalError
            The weights cannot be used.
        """
        from worker.inference.inference import open_inference

        with self._opening:
            if self._inference is None:
                settings = self.settings
                self._inference = open_inference(
                    *settings.weights_files,
                    mc_samples=settings.mc_samples,
                    seed=settings.seed,
                    device=settings.device,
                    batch_size=settings.batch_size,
                    batch_wait=settings.batch_wait,
                )
            return self._inference

    @property
    def database(self) -> Engine:
        """Connections to the database."""
        from worker.database.session import open_database

        if self._database is None:
            self._database = open_database(self.settings.database_url)
        return self._database

    def noise_model(self, weights: str) -> NoiseModel:
        """The noise model for labels of the weights with this SHA-256; the files are read once.

        Raises
        ------
        FatalError
            It cannot be used.
        """
        from worker.results.noise_model import noise_model_for

        if weights not in self._noise_models:
            files = self.settings.corrections_files(weights)
            self._noise_models[weights] = noise_model_for(weights, files)
        return self._noise_models[weights]

    def vitals(self) -> dict[str, Any]:
        """What the device does, in the process that has it open."""
        return {} if self._inference is None else self._inference.vitals()

    def close(self) -> None:
        """Close what does not close by itself: the device's thread and the database."""
        if self._inference is not None:
            self._inference.close()
        if self._database is not None:
            self._database.dispose()


@lru_cache(maxsize=1)
def this_process() -> Process:
    """What this process has, as the environment configures it."""
    return Process(get_settings())

"""What a run is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from producer.sources.files import Wanted, find_files
from worker.identity import weights_sha256
from worker.results.noise_model import noise_model_for
from worker.settings import Settings
from worker.starter.bundled import weights_name


@dataclass(frozen=True)
class Plan:
    """What a run is to do; made before anything is brought up, so that mistakes show at once.

    Raises
    ------
    UsageError, FatalError
        Something given cannot be used.
    """

    settings: Settings
    files: list[Path]
    wanted: Wanted
    weights: str
    weights_name: str
    corrections: str | None
    tag: str

    @classmethod
    def make(cls, paths: Sequence[Path], settings: Settings, *, wanted: Wanted, tag: str) -> Plan:
        """Check all that can be checked before the work."""
        plan = cls.without_files(settings, wanted=wanted, tag=tag)
        return replace(plan, files=find_files(paths, settings.data_root))

    @classmethod
    def without_files(cls, settings: Settings, *, wanted: Wanted, tag: str) -> Plan:
        """The plan for files that are to come."""
        weights = weights_sha256(settings.weights_file)
        return cls(
            settings=settings,
            files=[],
            wanted=wanted,
            weights=weights,
            weights_name=weights_name(settings.weights_file, weights),
            corrections=noise_model_for(weights, settings.corrections_files(weights)).sha256,
            tag=tag,
        )

"""The plain serial pipeline: from files to rows the way the peers go, in one process.

For every spectrum astropy opens the file and astroNN normalises the row; batches of spectra go
through the plain loop of passes, which is the peers' better way; every result is a row of its
own, inserted and committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Column, Double, Engine, Integer, MetaData, Table, Text, insert

from producer.bench.plain_loading import row_by_row
from producer.bench.plain_network import plain_loop
from worker.array_types import nulls
from worker.database.session import transaction
from worker.database.tables import label_columns
from worker.flags import flag_uncertain
from worker.identity import Place, weights_sha256
from worker.network.checkpoint import read_checkpoint, read_not_learnt
from worker.network.engines.choose import choose_device
from worker.results.noise_model import noise_model_for
from worker.settings import Settings
from worker.which_labels import learnt_labels

#: Spectra of a batch, at most.
BATCH = 64

RESULTS = Table(
    "plain_result",
    MetaData(),
    Column("natural_key", Text),
    *(Column(name, Double) for name in label_columns()),
    Column("result_flags", Integer),
)


class PlainPipeline:
    """The pipeline with its weights, ready to process.

    Parameters
    ----------
    database
        It is opened as ours is, which is kinder than SQLite's defaults: those
        wait for the disk at every commit.
    """

    def __init__(self, settings: Settings, database: Engine) -> None:
        self._settings = settings
        self._model = read_checkpoint(settings.weights_file).to(choose_device(settings.device))
        self._learnt = learnt_labels(read_not_learnt(settings.weights_file))
        weights = weights_sha256(settings.weights_file)
        self._noise_model = noise_model_for(weights, settings.corrections_files(weights))
        self._database = database
        RESULTS.create(database, checkfirst=True)

    def process(self, folder: Path, spectra: Sequence[Place]) -> None:
        """Give every spectrum its row."""
        for first in range(0, len(spectra), BATCH):
            self._batch(folder, spectra[first : first + BATCH])

    def _batch(self, folder: Path, spectra: Sequence[Place]) -> None:
        flux = row_by_row(folder, spectra, self._settings.coadd_mask)
        raw, raw_e = (
            np.where(self._learnt, labels, np.nan)
            for labels in plain_loop(self._model, flux, self._settings.mc_samples)
        )
        e_labels = self._noise_model.apply(raw_e)
        flags = flag_uncertain(raw, e_labels)
        columns = np.concatenate([raw, e_labels, raw, raw_e], axis=1)
        for spectrum, row, flag in zip(spectra, map(nulls, columns), flags, strict=True):
            values = dict(zip(label_columns(), row, strict=True))
            with transaction(self._database) as session:
                session.execute(
                    insert(RESULTS).values(
                        natural_key=spectrum.natural_key, result_flags=int(flag), **values
                    )
                )

"""Results as a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow.parquet import ParquetFile, ParquetWriter

#: The key of what a table says about itself, in the metadata of the file.
_META = b"astronn-stream"


def write_parquet(rows: ParquetFile, meta: Mapping[str, Any], path: Path) -> None:
    """Write the rows, with what the table says about itself in the metadata."""
    schema = rows.schema_arrow.with_metadata({_META: json.dumps(dict(meta))})
    with ParquetWriter(path, schema) as file:
        for group in range(rows.num_row_groups):
            file.write_table(rows.read_row_group(group))

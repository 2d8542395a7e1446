"""DataFrames in, columns out: the functions of `frames`, by the name under which they began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbatch.integrations.frames import complete_column, complete_frame, conversations
from llmbatch.results import BatchResults

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["complete_column", "complete_frame", "conversations", "results_frame"]


def results_frame(results: BatchResults) -> pd.DataFrame:
    """What `results.to_pandas()` returns."""
    return results.to_pandas()

"""Axial slices of CT volumes; volume_slices says where the files lie."""

from pathlib import Path

from data_pipelines.datasets.base import Listing
from data_pipelines.datasets.volume_slices import checked_window, list_slices

LICENCE = "the volumes' own"


def list_items(
    source: Path, *, slices: int = 10, low: float = -1000.0, high: float = 1400.0
) -> Listing:
    """At most `slices` of each patient, evenly spaced; `low` and `high` HU become 0 and 1."""
    return list_slices(source, slices, checked_window(low, high), 'CT')

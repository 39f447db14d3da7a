"""Slices of MRI volumes, divided by the volume's maximum; volume_slices says where files lie."""

from pathlib import Path

from data_pipelines.datasets.base import Listing
from data_pipelines.datasets.volume_slices import list_slices

LICENCE = "the volumes' own"


def list_items(source: Path, *, slices: int = 10) -> Listing:
    """At most `slices` of each patient, evenly spaced."""
    return list_slices(source, slices, None, 'MR')

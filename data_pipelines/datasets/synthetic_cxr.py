"""The embedded data set: phantoms written as DICOM files in the SIIM-FISABIO-RSNA layout."""

from dataclasses import replace
from pathlib import Path

from data_pipelines.datasets import siim_covid19
from data_pipelines.datasets.base import Listing

LICENCE = 'that of this software: they are drawn'


def list_items(source: Path) -> Listing:
    """As siim_covid19, but files that the tables do not list are left from a larger set."""
    listing = siim_covid19.list_items(source)
    missing = [(path, why) for path, why in listing.rejected if not (source / path).is_file()]
    return replace(listing, rejected=missing)

"""The embedded data set: phantoms written as DICOM files in the SIIM-FISABIO-RSNA layout."""

from dataclasses import replace
from pathlib import Path

from data_pipelines.datasets import siim_covid19
from data_pipelines.datasets.base import Listing


def generate_raw(source: Path, n_images: int, seed: int, shortcut: float, processes: int) -> None:
    """Write what is missing of the raw files into `source`; see synthetic.generate."""
    # Imported here because the decoding processes import this package and need no phantoms.
    from data_pipelines.synthetic import generate

    generate(source, n_images, seed, shortcut=shortcut, processes=processes)


def list_items(source: Path) -> Listing:
    """As siim_covid19, but files that the tables do not list are left from a larger set."""
    listing = siim_covid19.list_items(source)
    missing = [(path, why) for path, why in listing.rejected if not (source / path).is_file()]
    return replace(listing, rejected=missing)

"""The embedded phantom data: prepared by whatever runs on it first."""

import pathlib

from data_pipelines.prepare import prepare
from data_pipelines.prepared.data import CARD_FILE

NAME = 'synthetic_cxr'
IMAGES = 800
DATA_DIR = 'data'  # where prepared sets lie unless named
BANNER = 'Embedded phantom radiographs: the figures show that everything works, not more.'


def prepare_if_missing(config) -> None:
    """Prepares the phantoms if `config.data` names them, no folder, and they are not there."""
    prepared = pathlib.Path(DATA_DIR, NAME, f'{config.data.size}px', CARD_FILE)
    if config.data.name == NAME and not config.data.dir and not prepared.is_file():
        prepare(NAME, None, DATA_DIR, config.data.size, images=IMAGES)

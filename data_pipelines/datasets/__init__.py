"""The data sets that can be prepared: one module each, their readers.

A reader has `LICENCE`, a sentence for the card, and `list_items(source, ...) -> Listing`; what may
be chosen are its keyword-only parameters, whose defaults say of what type they are.
"""

import inspect
from collections.abc import Sequence
from types import ModuleType

from data_pipelines.datasets import (
    chexpert,
    covid_chestxray,
    covid_radiography,
    ct_slices,
    image_folder,
    isic2019,
    luna16,
    mimic_cxr,
    mri_slices,
    mura,
    nih14,
    rsna_pneumonia,
    siim_covid19,
    synthetic_cxr,
    vindr_cxr,
)
from data_pipelines.errors import UserError

DATASETS = {
    'siim_covid19': siim_covid19,
    'covid_radiography': covid_radiography,
    'covid_chestxray': covid_chestxray,
    'mura': mura,
    'isic2019': isic2019,
    'image_folder': image_folder,
    'synthetic_cxr': synthetic_cxr,
    'luna16': luna16,
    'ct_slices': ct_slices,
    'mri_slices': mri_slices,
    'nih14': nih14,
    'chexpert': chexpert,
    'mimic_cxr': mimic_cxr,
    'rsna_pneumonia': rsna_pneumonia,
    'vindr_cxr': vindr_cxr,
}


def options_of(reader: ModuleType) -> dict[str, object]:
    """{name: default} of what may be chosen of a reader."""
    parameters = inspect.signature(reader.list_items).parameters.values()
    return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}


def read_options(reader: ModuleType, given: Sequence[str]) -> dict[str, object]:
    """Texts 'name=value' as the keyword arguments of a reader's list_items; UserError."""
    known, chosen = options_of(reader), {}
    short = reader.__name__.rpartition('.')[2]
    for text in given:
        name, equals, value = text.partition('=')
        if name not in known or not equals:
            has = ', '.join(f'{k}={v}' for k, v in known.items()) or 'none'
            raise UserError(
                f'--options {text} is not one of {short}, which has {has}. Give it as NAME=VALUE.'
            )
        chosen[name] = _as(type(known[name]), value, text)
    return chosen


def _as(kind: type, value: str, text: str) -> object:
    try:
        return {'True': True, 'False': False}[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        wanted = 'True or False' if kind is bool else f'of type {kind.__name__}'
        raise UserError(f'--options {text} must be {wanted}.') from None

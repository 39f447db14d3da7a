"""The candidates of a search: a stage's settings at every batch size and rate that is tried."""

import dataclasses

import numpy as np

from cxr_jax.train.stage import SearchSettings, StageSettings


def candidate_rates(search: SearchSettings, seed: int) -> list[float]:
    """The rates that are tried: an even grid, or draws for the protocol `sampled`."""
    low, high, count = search.low, search.high, search.count
    if search.protocol == 'sampled':
        draws = np.random.default_rng(seed).uniform(size=count)
        places = np.sort(draws)
    else:
        places = np.linspace(0, 1, count)
    rates = low * (high / low) ** places if search.log else low + (high - low) * places
    return [float(f'{rate:.6g}') for rate in rates]


def candidates(settings: StageSettings, seed: int) -> list[StageSettings]:
    """Settings with the search off, batch sizes outermost."""
    search = settings.search
    off = dataclasses.replace(search, protocol='off')
    return [
        dataclasses.replace(
            settings,
            batch_size=batch,
            optimizer=dataclasses.replace(settings.optimizer, lr=rate),
            search=off,
        )
        for batch in search.batch_sizes or (settings.batch_size,)
        for rate in candidate_rates(search, seed)
    ]


def describe(settings: StageSettings, seed: int, images: int | None) -> str:
    """A line that tells what is tried; `images`: of a trial, if not all."""
    search = settings.search
    rates = ', '.join(f'{rate:g}' for rate in candidate_rates(search, seed))
    sizes = ', '.join(map(str, search.batch_sizes))
    return (
        f'search {search.protocol}: rates {rates}'
        + (f', batches of {sizes}' if sizes else '')
        + f', {search.epochs} epochs'
        + (f' on {images} images' if images is not None else '')
    )

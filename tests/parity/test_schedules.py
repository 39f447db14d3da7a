"""Every schedule of the rate against NumPy in float64, and what the reference code gives."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from cxr_jax.train.optim import OptimizerSettings, rate_factor
from tests.parity import reference as ref

EPOCHS, PER_EPOCH = 7, 9
TOTAL = EPOCHS * PER_EPOCH


def rates(total=TOTAL, per_epoch=PER_EPOCH, **changes) -> np.ndarray:
    """Factor of every step, compiled, in float64."""
    with jax.enable_x64(True):
        factor = jax.jit(rate_factor(OptimizerSettings(**changes), total, per_epoch))
        return np.array([factor(step) for step in range(total)])


def plain(s: OptimizerSettings, step: int, total=TOTAL, per_epoch=PER_EPOCH) -> float:
    """One step's factor, written as a case by case definition."""
    warmup = round(s.warmup_epochs * per_epoch)
    at = step
    while s.by_epoch and at % per_epoch:
        at -= 1
    regular = 1.0
    if s.schedule == 'cosine':
        share = min(max(at - warmup, 0) / (total - warmup), 1.0)
        regular = s.final_factor + (1 - s.final_factor) * math.cos(math.pi * share / 2) ** 2
    if s.schedule == 'step':
        for milestone in s.milestones:
            if at >= round(milestone * total):
                regular *= s.step_factor
    if step >= warmup:
        return regular
    if s.warmup_ratio == 0:
        return regular * (step + 1) / warmup
    # mmcv: what is missing of the regular rate shrinks linearly.
    return regular * (1 - (1 - step / warmup) * (1 - s.warmup_ratio))


CHOICES = {
    'schedule': ('cosine', 'step', 'constant'),
    'by_epoch': (False, True),
    'warmup_epochs': (0.0, 1.0, 2.5),
    'warmup_ratio': (0.0, 0.1),
    'final_factor': (0.0, 0.001),
}


@pytest.mark.parametrize('schedule', CHOICES['schedule'])
def test_every_step_of_every_schedule(schedule):
    others = [name for name in CHOICES if name != 'schedule']
    for values in itertools.product(*(CHOICES[name] for name in others)):
        changes = dict(zip(others, values, strict=True)) | {'schedule': schedule}
        settings = OptimizerSettings(**changes, milestones=(0.3, 5 / 7), step_factor=0.2)
        if any(changes[name] for name in changes.keys() & settings.inactive()):
            continue  # that value does nothing here
        expected = [plain(settings, step) for step in range(TOTAL)]
        found = rates(**dataclasses.asdict(settings))
        ref.assert_close(found, expected, str(changes))


def test_warmup_and_cosine_of_the_golden_vector(golden):
    found = 0.3 * rates(100, 10, schedule='cosine', final_factor=0.01, warmup_epochs=1.0)
    ref.assert_close(found, golden('warmup_cosine')['lr'])


def test_the_last_and_the_first_step():
    """The cosine ends one step before its floor; a warm-up from nothing does not lose a step."""
    found = rates(schedule='cosine', warmup_epochs=1.0)
    ref.assert_close(found[[0, 8, 9]], [1 / 9, 1.0, 1.0])
    assert 0 < found[-1] < 1e-3


def test_the_reference_milestones_fall_on_whole_epochs():
    """MMSelfSup's 30 and 50 of 70 epochs, at a number of steps whose share is not exact."""
    found = rates(70 * 7, 7, schedule='step', milestones=(30 / 70, 50 / 70))
    ref.assert_close(found, np.repeat([1, 0.1, 0.01], [210, 140, 140]))


def test_mmcvs_cosine_by_epoch():
    found = rates(50, 10, schedule='cosine', by_epoch=True, final_factor=0.001)
    expected = [0.001 + 0.5 * 0.999 * (1 + np.cos(np.pi * epoch / 5)) for epoch in range(5)]
    ref.assert_close(found, np.repeat(expected, 10))

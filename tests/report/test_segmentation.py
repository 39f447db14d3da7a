"""The report of a lung segmenter."""

import json

import numpy as np
import pytest
from PIL import Image

from cxr_jax.report.formats import decimal, interval, percent
from cxr_jax.report.segmentation import FIGURES, format_masks, format_table, write_report


def figure(value):
    return {'value': value, 'low': value - 0.01, 'high': value + 0.01, 'reason': ''}


@pytest.fixture
def results():
    return {
        'name': 'segment-phantoms', 'banner': 'phantoms', 'command': 'python -m cxr_jax.segment',
        'seed': 3, 'folds': 0, 'network': 'U-Net, width 8, depth 2',
        'data': {'name': 'phan|toms', 'size': 24, 'has_patient_ids': True,
                 'counts': [{'train': 40, 'test': 9}]},
        'stages': [{'steps': 77, 'wall_seconds': 12.5,
                    'final_metrics': {'loss': 0.321, 'dice': 0.876}}],
        'test': {'images': 9, 'patients': 5, 'dice': figure(0.91), 'iou': figure(0.83),
                 'raw_dice': figure(0.9), 'accepted': figure(0.889)},
    }  # fmt: skip


@pytest.fixture
def tested():
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24), np.uint8)
    mask[5:18, 3:10] = 1
    return [
        {'image': rng.integers(0, 255, (24, 24), np.uint8), 'true': mask, 'mask': mask,
         'dice': 0.9 + i / 100, 'reason': 'the area | is small' if i == 2 else ''}
        for i in range(9)
    ]  # fmt: skip


def test_page_and_console_hold_the_figures(tmp_path, results, tested):
    write_report(tmp_path, results, [[{'step': 1, 'loss': 0.5}]], tested)
    assert {path.name for path in tmp_path.iterdir()} == {
        'gallery.png', 'curves.png', 'results.md', 'results.json'
    }
    for name in ('gallery.png', 'curves.png'):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture).std() > 5
    page, console = (tmp_path / 'results.md').read_text(), format_table(results)
    for key, (title, unit) in FIGURES.items():
        value = (percent if unit == 'percent' else decimal)(results['test'][key]['value'])
        bounds = interval(results['test'][key], unit)
        assert f'| {title} | {value} | {bounds} |' in page
        assert [title, value, bounds] in [line.split('  ') for line in _single(console)]
    assert '| the area \\| is small | 1 |' in page and '> - phantoms' in page
    assert '| 1 | 40 | 77 | 0.321 | 0.876 | 12.5 s |' in page
    assert json.loads((tmp_path / 'results.json').read_text()) == results
    assert 'no patient of it was trained on' in page and 'no patient id' not in page


def test_folds_and_missing_patients_are_told(tmp_path, results, tested):
    results['folds'] = 2
    results['data'] |= {'has_patient_ids': False, 'counts': results['data']['counts'] * 2}
    results['stages'] *= 2
    write_report(tmp_path, results, [[], []], tested)
    page = (tmp_path / 'results.md').read_text()
    assert '2-fold cross-validation by patient' in page and 'have no patient id' in page
    assert '| 2 | 40 | 77 |' in page


def test_masks_that_were_written_and_rejected():
    card = {
        'name': 'unet', 'dataset': 'nih14', 'size': 128, 'names': ['effusion', 'mass'],
        'accepted': {'train': {'images': 1234, 'names': [10, 20]}},
        'rejected': {'train': {'images': 66, 'names': [3, 0]}},
        'reasons': {'the lungs cover less than a twentieth of the image': 66},
    }  # fmt: skip
    text = format_masks(card)
    lines = [line.split('  ') for line in _single(text)]
    assert ['train', '1,234', '66', '3 of 13', '0 of 20'] in lines
    assert ['the lungs cover less than a twentieth of the image', '66'] in lines
    assert 'Lung masks unet of nih14 at 128 px' in text and max(map(len, text.splitlines())) < 100


def _single(text):
    """Lines whose cells are separated by two blanks."""
    for line in text.splitlines():
        yield '  '.join(cell.strip() for cell in line.split('  ') if cell.strip())

"""AIL of a trained readout with the stored lung masks and with a segmenter's, image by image.

    python -m scripts.compare_masks --readout runs/scratch-demo --masks unet

`--readout`: the workdir of a run that ended in a readout, or its bundle; `--masks`: a sidecar of
the set that it was trained on (cxr_jax.segment apply). Only test images that have both masks count.
One JSON line on stdout.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from cxr_jax.evaluation.measures.segmentation import mean_figures
from cxr_jax.run.embedded import DATA_DIR
from cxr_jax.run.trained import load_readout
from cxr_jax.runtime import parallel
from cxr_jax.store.inspection import find_stage
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import open_prepared

COLUMNS = ('ail_stored', 'ail_masks', 'area_stored', 'area_masks')
BATCH = 64


def both_masks(folder: pathlib.Path, masks: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """(table [N, 4] of COLUMNS in [0, 1], patients [N]) of the test images with both masks."""
    readout = load_readout(find_stage(folder))
    data = readout.description['run']['data']
    if data.get('folds'):
        raise UserError(
            f'{folder} was cross-validated: images of the test split were trained on. Name a run '
            'without folds.'
        )
    prepared = open_prepared(data_dir, data['name'], readout.encoder.contract.size)
    found = []
    for each in (prepared, prepared.with_masks(masks)):
        corpus = each.corpus('test')
        corpus = corpus.take(corpus.column('has_mask'))
        if not len(corpus):
            raise UserError(f'No test image of {prepared.directory} has a lung mask.')
        rows = readout.predict(corpus, parallel.data_mesh(), BATCH)
        known = np.flatnonzero(np.isfinite(rows.ail))
        found.append({rows.image_ids[k]: (rows.ail[k], rows.lung_area[k], rows.patients[k])
                      for k in known})  # fmt: skip
    stored, other = found
    shared = [image for image in stored if image in other]
    if not shared:
        raise UserError(
            f'No test image of {prepared.directory} has a stored mask and one of {masks}.'
        )
    table = [(stored[i][0], other[i][0], stored[i][1], other[i][1]) for i in shared]
    return np.array(table, np.float64), np.array([stored[i][2] for i in shared])


def compare(table: np.ndarray, patients: np.ndarray, resamples: int, seed: int = 0) -> dict:
    """Means of COLUMNS and of the difference of AIL, each with a patient-bootstrap interval."""
    columns = dict(zip(COLUMNS, table.T, strict=True))
    difference = columns['ail_masks'] - columns['ail_stored']
    means = mean_figures(columns | {'ail_difference': difference}, patients, seed, resamples)
    correlation = np.corrcoef(columns['ail_stored'], columns['ail_masks'])[0, 1]
    return means | {'correlation': float(correlation)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--readout', type=pathlib.Path, required=True)
    parser.add_argument('--masks', required=True, help='name of the sidecar')
    parser.add_argument('--data_dir', default=DATA_DIR)
    arguments = parser.parse_args()
    try:
        table, patients = both_masks(arguments.readout, arguments.masks, arguments.data_dir)
        print(json.dumps(compare(table, patients, resamples=2000)))
    except (UserError, OSError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()

"""AIL of a trained classifier with the stored lung masks and with a segmenter's, image by image.

    python -m scripts.compare_masks --workdir runs/scratch-demo --masks unet

`--workdir`: a finished run of cxr_jax.main; `--masks`: a sidecar of its data (cxr_jax.segment
apply). Only test images that have both masks count. One JSON line on stdout.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
from cxr_jax.evaluation.overlap import mean_figures
from cxr_jax.run.finished import find_classifier
from ml_collections import ConfigDict

from cxr_jax.run.workdir import RUN_FILE
from data_pipelines.errors import UserError

COLUMNS = ('ail_stored', 'ail_masks', 'area_stored', 'area_masks')


def both_masks(workdir: pathlib.Path, masks: str, data_dir: str, store: str):
    """(table [N, 4] of COLUMNS in [0, 1], patients [N]) of the test images with both masks."""
    config = ConfigDict(json.loads((workdir / RUN_FILE).read_text())['config'])
    config.data.dir, config.store = data_dir, store
    classifier = find_classifier(config, workdir)
    data = classifier.stage.data

    found = []
    for each in (data, data.with_masks(masks)):
        rows = classifier.predict('test', each)
        known = np.flatnonzero(np.isfinite(rows.ail))
        found.append({rows.image_ids[k]: (rows.ail[k], rows.lung_area[k], rows.patients[k])
                      for k in known})  # fmt: skip
    stored, other = found
    shared = [image for image in stored if image in other]
    if not shared:
        raise UserError(f'No test image of {data.directory} has a stored mask and one of {masks}.')
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
    parser.add_argument('--workdir', type=pathlib.Path, required=True)
    parser.add_argument('--masks', required=True, help='name of the sidecar')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--store', default='', help='folder of the stages, if not beside it')
    arguments = parser.parse_args()
    try:
        table, patients = both_masks(
            arguments.workdir, arguments.masks, arguments.data_dir, arguments.store
        )
        print(json.dumps(compare(table, patients, resamples=2000)))
    except (UserError, OSError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()

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
from ml_collections import ConfigDict

from cxr_jax import curriculum, parallel
from cxr_jax.bootstrap import figure, patient_bootstrap, ratio
from cxr_jax.evaluate import predict
from cxr_jax.models.backbone import build_backbone
from cxr_jax.plan import make_plan
from cxr_jax.stage import run_stage
from data_pipelines.errors import UserError

COLUMNS = ('ail_stored', 'ail_masks', 'area_stored', 'area_masks')


def both_masks(workdir: pathlib.Path, masks: str, data_dir: str, store: str):
    """(table [N, 4] of COLUMNS in [0, 1], patients [N]) of the test images with both masks."""
    config = ConfigDict(json.loads((workdir / curriculum.RUN_FILE).read_text())['config'])
    config.data.dir, config.store = data_dir, store
    data, mesh = curriculum.open_data(config), parallel.data_mesh()
    plan = make_plan(config, data, mesh.size)
    contract = data.contract(config.data.region)
    backbone = build_backbone(config.backbone, contract['mean'], contract['std'])
    last = plan.stages[-1]
    parent = curriculum.initial_backbone(config, backbone, last.task.image_size)
    folder = curriculum.store_of(config, workdir)
    if not (folder / f'{last.name}-{last.key}').is_dir():
        raise UserError(f'{workdir} is not finished: {folder} has no {last.name}-{last.key}.')
    variables = run_stage(last, backbone, parent, mesh, folder, {}).variables

    found = []
    for each in (last.data, last.data.with_masks(masks)):
        rows = predict(
            last.task, backbone, variables, each, mesh, config.data.region, 'test',
            config.eval.batch_size,
        )  # fmt: skip
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
    numbers = np.column_stack([table, table[:, 1] - table[:, 0]])
    names, codes = np.unique(patients, return_inverse=True)
    sums = np.zeros((len(names), numbers.shape[1] + 1))
    np.add.at(sums, codes, np.column_stack([numbers, np.ones(len(numbers))]))

    def statistic(counts):
        drawn = counts @ sums
        return {'means': ratio(drawn[:, :-1], drawn[:, -1:])}

    samples = patient_bootstrap(statistic, len(names), len(table), resamples, seed)['means']
    means = statistic(np.ones((1, len(names))))['means'][0]
    result = {'images': len(table), 'patients': len(names)}
    for k, name in enumerate((*COLUMNS, 'ail_difference')):
        result[name] = figure(means[k], samples[:, k], len(names))
    return result | {'correlation': float(np.corrcoef(table[:, 0], table[:, 1])[0, 1])}


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

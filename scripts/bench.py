"""Measure speed, one JSON line per result on stdout.

    python scripts/bench.py step       the train step's CPU lowering against XLA's own operations
    python scripts/bench.py input      the loader against TFDS's own reading, record by record
    python scripts/bench.py ingest     reading DICOM files against the obvious pydicom script

The two sides take turns in one process, so that a busy machine slows both; medians and the least
and largest value of all rounds are given.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import pydicom
import tensorflow_datasets as tfds
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.curriculum import stage_config  # noqa: E402
from cxr_jax import optim, parallel  # noqa: E402
from cxr_jax import state as states  # noqa: E402
from cxr_jax.models import conv, resnet  # noqa: E402
from cxr_jax.models.backbone import Backbone  # noqa: E402
from cxr_jax.tasks import TASKS  # noqa: E402
from cxr_jax.train_step import make_train_step  # noqa: E402
from data_pipelines import loader  # noqa: E402
from data_pipelines.ingest import prepare_image  # noqa: E402
from data_pipelines.prepare import prepare  # noqa: E402

SIZE = 256
RECORDS, BATCH = 3072, 64
DICOM_SHAPE, DICOM_FILES = (2500, 2048), 4


def timed(run: Callable[[], int]) -> float:
    """Images per second of one run, which returns how many images it handled."""
    start = time.perf_counter()
    images = run()
    return images / (time.perf_counter() - start)


def take_turns(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of every run in every round."""
    rates = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(timed(run))
    return rates


def report(bench: str, rates: dict[str, list[float]], baseline: str, **facts: object) -> None:
    """One line per side: rate in images/s, and its ratio to the baseline of the same round."""
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, rates[baseline], strict=True)]
        line = {
            'bench': bench, 'what': name, 'images_per_s': round(statistics.median(own), 1),
            'least': round(min(own), 1), 'most': round(max(own), 1),
            'ratio': round(statistics.median(ratios), 2), 'least_ratio': round(min(ratios), 2),
            'baseline': baseline, 'rounds': len(own), **facts,
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def bench_input(rounds: int) -> None:
    """Batches of images and labels from a prepared set, first from its files, then kept."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(RECORDS):
            path = Path(folder, 'raw', str(k % 4), f'{k}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(noise).save(path, compress_level=0)
        prepared = prepare('image_folder', f'{folder}/raw', f'{folder}/data', size=SIZE)
        builder = tfds.builder_from_directory(str(prepared.directory / '1.0.0'))
        batches = prepared.counts['train'] // BATCH

        def naive() -> int:
            source = builder.as_data_source('train')
            order = np.random.default_rng(0).permutation(len(source)).tolist()
            for i in range(batches):
                records = [source[k] for k in order[i * BATCH : (i + 1) * BATCH]]
                np.stack([record['image'] for record in records])
                np.stack([record['label'] for record in records])
            return batches * BATCH

        def consume(stream, n: int) -> int:
            return sum(len(batch['image']) for batch in islice(stream, n))

        kept = loader.train_batches(prepared, 'train', BATCH, seed=0)
        consume(kept, 2 * batches)  # every record has been read once
        runs = {
            'tfds record by record': naive,
            'loader, first epoch': lambda: consume(
                loader.train_batches(prepared, 'train', BATCH, seed=0), batches
            ),
            'loader, later epochs': lambda: consume(kept, 4 * batches),
        }
        report('input', take_turns(runs, rounds), 'tfds record by record', size=SIZE, batch=BATCH)


def write_dicom(path: Path, seed: int, window: bool) -> None:
    """12 bits in 16, uncompressed; odd seeds are MONOCHROME1."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = f'1.2.3.{seed}'
    ds.Rows, ds.Columns = DICOM_SHAPE
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = f'MONOCHROME{2 - seed % 2}'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    if window:
        ds.WindowCenter, ds.WindowWidth = 2048, 3000
    y, x = np.indices(DICOM_SHAPE) / 300
    noise = np.random.default_rng(seed).normal(0, 30, DICOM_SHAPE)
    pixels = (2048 + 1900 * np.sin(x + seed) * np.cos(y) + noise).clip(0, 4095).astype(np.uint16)
    ds.PixelData = pixels.tobytes()
    ds['PixelData'].VR = 'OW'
    ds.save_as(path, enforce_file_format=True)


def obvious_ingest(path: Path) -> np.ndarray:
    """What a script from a tutorial does."""
    ds = pydicom.dcmread(path)
    pixels = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    if ds.PhotometricInterpretation == 'MONOCHROME1':
        pixels = pixels.max() - pixels
    pixels = pixels.astype(np.float32)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    side = max(pixels.shape)
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in pixels.shape]
    square = Image.fromarray(np.pad(pixels, margins))
    resized = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX))
    return np.rint(resized * 255).astype(np.uint8)


def our_ingest(path: Path) -> np.ndarray:
    return prepare_image(path, SIZE, 8)[0]


def bench_ingest(rounds: int) -> None:
    """DICOM file to prepared image on one core, with and without a window in the header."""

    def handle(ingest: Callable[[Path], np.ndarray], paths: list[Path]) -> int:
        return len([ingest(path) for path in paths])

    with tempfile.TemporaryDirectory() as folder:
        for window in (True, False):
            paths = [Path(folder, f'{window}{seed}.dcm') for seed in range(DICOM_FILES)]
            for seed, path in enumerate(paths):
                write_dicom(path, seed, window)
            pairs = [(our_ingest(p).astype(int), obvious_ingest(p).astype(int)) for p in paths]
            runs = {
                'obvious script': partial(handle, obvious_ingest, paths),
                'prepare_image': partial(handle, our_ingest, paths),
            }
            rates = take_turns(runs, rounds)
            report(
                'ingest', rates, 'obvious script', shape=DICOM_SHAPE, window=window,
                mean_levels_apart=round(float(np.mean([np.abs(a - b) for a, b in pairs])), 3),
            )  # fmt: skip


def train_step_runs(size: int, batch: int) -> Callable[[], int]:
    """A compiled classifier step of ResNet-18 at full width, ready to be run once more."""
    mesh = parallel.data_mesh()
    network = resnet.ResNet(18, 64, axis_name=parallel.AXIS)
    backbone = Backbone(network, mean=0.5, std=0.25)
    task = TASKS['classify'](image_size=size, classes=4)
    config = stage_config('classify').optimizer
    transform, factor = optim.optimizer(config), optim.rate_factor(config, 100, 10)
    step = make_train_step(task, backbone, transform, factor, mesh, 'full', gray=0.5)
    params, stats = backbone.init(jax.random.key(0), size)
    state = states.create(task, backbone, transform, params, stats, jax.random.key(1), 0.1)
    rng = np.random.default_rng(0)
    rows = parallel.put_rows(mesh, {
        'image': rng.integers(0, 256, (batch, size, size, 1), np.uint8),
        'label': rng.integers(0, 4, batch).astype(np.int32),
    })  # fmt: skip
    current = [parallel.replicate(mesh, state)]

    def run() -> int:
        current[0], metrics = step(current[0], rows)
        jax.block_until_ready(metrics)
        return batch

    run()
    return run


def bench_step(rounds: int) -> None:
    """The whole step: views, forward, backward, update; batch 64 at 64 px."""

    def plain_pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    with (
        mock.patch.object(conv, 'conv2d', conv.xla_convolution),
        mock.patch.object(resnet, 'max_pool', plain_pool),
    ):
        runs = {'XLA convolutions': train_step_runs(64, 64)}
    runs['cxr_jax'] = train_step_runs(64, 64)
    report('step', take_turns(runs, rounds), 'XLA convolutions', network='ResNet-18', size=64,
           batch=64, device=jax.devices()[0].device_kind)  # fmt: skip


BENCHES = {'step': bench_step, 'input': bench_input, 'ingest': bench_ingest}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('bench', choices=BENCHES)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    BENCHES[arguments.bench](arguments.rounds)


if __name__ == '__main__':
    main()

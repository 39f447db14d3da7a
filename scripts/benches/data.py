"""The benches `input` and `ingest`: from records to batches, from DICOM files to images."""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pydicom
import tensorflow_datasets as tfds
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from data_pipelines import loader
from data_pipelines.ingest import prepare_image
from data_pipelines.prepare import prepare
from scripts.benches.measure import report, take_turns

SIZE = 256
RECORDS, BATCH = 3072, 64
DICOM_SHAPE, DICOM_FILES = (2500, 2048), 4


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

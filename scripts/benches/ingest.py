"""The bench `ingest`: from DICOM files to prepared images."""

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openjpeg
import pydicom
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data_pipelines.datasets.base import Item
from data_pipelines.preparing.ingest import make_task, prepare_file, prepare_image
from data_pipelines.raw.dicom_write import Storage, write_dicom
from scripts.benches.measure import report, take_turns

SIZE = 256
DICOM_SHAPE, DICOM_FILES = (2500, 2048), 2
SYNTAXES = ('uncompressed', 'jpeg_2000')


def write_files(folder: Path, syntax: str, window: tuple[float, float] | None) -> list[Path]:
    """12 bits in 16, waves and noise; odd ones are MONOCHROME1."""
    paths = [folder / f'{syntax}{window is None}{seed}.dcm' for seed in range(DICOM_FILES)]
    y, x = np.indices(DICOM_SHAPE) / 300
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).normal(0, 0.007, DICOM_SHAPE)
        grey = 0.5 + 0.46 * np.sin(x + seed) * np.cos(y) + noise
        storage = Storage(monochrome1=bool(seed % 2), syntax=syntax, window=window)
        write_dicom(path, grey.clip(0, 1), storage, {'SOPInstanceUID': f'1.2.3.{seed}'})
    return paths


def decoder_alone(path: Path) -> Callable[[], np.ndarray]:
    """What nobody can spare: OpenJPEG on the stream in memory, or reading the uncompressed words
    from the file."""
    ds = pydicom.dcmread(path)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        stream = next(generate_frames(ds.PixelData, number_of_frames=1))
        return lambda: openjpeg.decode(stream)
    start = path.stat().st_size - len(ds.PixelData)
    return lambda: np.fromfile(path, '<u2', offset=start)


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


def bench_ingest(rounds: int) -> None:
    """DICOM file to prepared image on one core: from the file to the entry in the cache, as every
    process of a preparation does it."""
    # Some decoders start threads, which would take the cores of other such processes.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        for syntax, window in (('uncompressed', (0.1, 0.9)), *((s, None) for s in SYNTAXES)):
            paths = write_files(Path(folder), syntax, window)
            tasks = [make_task(Item(p, p.name), SIZE, 8, Path(folder)) for p in paths]
            decoders = [decoder_alone(path) for path in paths]
            pairs = [(prepare_image(p, SIZE, 8)[0], obvious_ingest(p)) for p in paths]
            apart = np.mean([np.abs(a.astype(int) - b) for a, b in pairs])
            runs = {
                'obvious script': lambda paths=paths: len([obvious_ingest(p) for p in paths]),
                'decoder alone': lambda all_=decoders: len([decode() for decode in all_]),
                'prepare_file': lambda tasks=tasks: len([prepare_file(task) for task in tasks]),
            }
            rates = take_turns(runs, rounds)
            times = zip(rates['decoder alone'], rates['prepare_file'], strict=True)
            report(
                'ingest', rates, 'obvious script', shape=DICOM_SHAPE, syntax=syntax,
                window=window is not None, mean_levels_apart=round(float(apart), 3),
                total_over_decoder=round(statistics.median(a / b for a, b in times), 3),
            )  # fmt: skip

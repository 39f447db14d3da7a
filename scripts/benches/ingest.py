"""The bench `ingest`: from DICOM files to prepared images."""

import functools
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder, pixel_array

from data_pipelines.datasets.base import Item
from data_pipelines.preparing.ingest import make_task, prepare_file, prepare_image
from data_pipelines.raw.dicom_write import Storage, write_dicom
from scripts.benches.measure import report, say, spread, take_turns

SIZE = 256
DICOM_SHAPE, DICOM_FILES = (2500, 2048), 2
# What decodes each and is taken for right; Pillow writes JPEG baseline, gdcm the others.
REFERENCES = {
    'uncompressed': '', 'rle': 'pydicom', 'jpeg_ls': 'gdcm', 'jpeg_lossless': 'gdcm',
    'jpeg_baseline': 'gdcm', 'jpeg_2000': 'gdcm',
}  # fmt: skip


def write_files(folder: Path, syntax: str, window: tuple[float, float] | None) -> list[Path]:
    """12 bits in 16 (8 in 8 as JPEG baseline), waves and noise; odd ones are MONOCHROME1."""
    paths = [folder / f'{syntax}{window is None}{seed}.dcm' for seed in range(DICOM_FILES)]
    baseline = syntax == 'jpeg_baseline'
    y, x = np.indices(DICOM_SHAPE) / 300
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).normal(0, 0.007, DICOM_SHAPE)
        grey = 0.5 + 0.46 * np.sin(x + seed) * np.cos(y) + noise
        storage = Storage(
            monochrome1=bool(seed % 2), syntax='uncompressed' if baseline else syntax, window=window
        )
        write_dicom(path, grey.clip(0, 1), storage, {'SOPInstanceUID': f'1.2.3.{seed}'})
        if baseline:
            as_baseline(path)
    return paths


def as_baseline(path: Path) -> None:
    """Rewrites an uncompressed file of 12 bits as JPEG baseline of 8."""
    ds, stream = pydicom.dcmread(path), io.BytesIO()
    Image.fromarray((ds.pixel_array >> 4).astype(np.uint8)).save(stream, 'JPEG', quality=95)
    ds.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = encapsulate([stream.getvalue()])
    ds['PixelData'].VR, ds['PixelData'].is_undefined_length = 'OB', True
    ds.save_as(path, enforce_file_format=True)


def decoders(path: Path, syntax: str) -> dict[str, functools.partial]:
    """What nobody can spare: each decoder at hand on the stream in memory, or reading the
    uncompressed words from the file."""
    ds = pydicom.dcmread(path)
    if syntax == 'uncompressed':
        start = path.stat().st_size - len(ds.PixelData)
        return {'the file': functools.partial(np.fromfile, path, '<u2', offset=start)}
    plugins = get_decoder(ds.file_meta.TransferSyntaxUID).available_plugins
    return {name: functools.partial(pixel_array, ds, decoding_plugin=name) for name in plugins}


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
    process of a preparation does it; images per second of processor time."""
    # Some decoders start threads, which would take the cores of other such processes.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for syntax, window in (('uncompressed', (0.1, 0.9)), *((s, None) for s in REFERENCES)):
        with tempfile.TemporaryDirectory() as folder:
            measure_syntax(Path(folder), syntax, window, rounds)


def measure_syntax(
    folder: Path, syntax: str, window: tuple[float, float] | None, rounds: int
) -> None:
    """`levels_apart`: of stored values, the most that a decoder differs from the reference."""
    paths = write_files(folder, syntax, window)
    tasks = [make_task(Item(p, p.name), SIZE, 8, folder) for p in paths]
    alone = [decoders(path, syntax) for path in paths]
    apart = {
        name: int(np.abs(decode().astype(int) - alone[0][REFERENCES[syntax]]()).max())
        for name, decode in alone[0].items()
        if REFERENCES[syntax]
    }
    pairs = [(prepare_image(p, SIZE, 8)[0], obvious_ingest(p)) for p in paths]
    runs = {
        'obvious script': lambda: len([obvious_ingest(p) for p in paths]),
        'prepare_file': lambda: len([prepare_file(task) for task in tasks]),
        **{
            f'decoder {name}': lambda name=name: len([decode[name]() for decode in alone])
            for name in alone[0]
        },
    }
    rates = take_turns(runs, rounds, time.process_time)
    report(
        'ingest', rates, 'obvious script', shape=DICOM_SHAPE, syntax=syntax,
        window=window is not None, levels_apart=apart,
        mean_levels_apart=round(float(np.mean([np.abs(a.astype(int) - b) for a, b in pairs])), 3),
    )  # fmt: skip
    fastest = [max(rates[f'decoder {name}'][k] for name in alone[0]) for k in range(rounds)]
    ratios = [a / b for a, b in zip(fastest, rates['prepare_file'], strict=True)]
    say(bench='ingest', what='total / decoder', syntax=syntax, **spread('ratio', ratios))

"""A miniature SIIM-FISABIO-RSNA tree, with the truth about every image for the tests."""

import csv
from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from pydicom.uid import generate_uid

from data_pipelines.prepare import prepare
from data_pipelines.prepared.records import SPLIT, VERSION
from tests.dicom_files import dataset

CLASSES = ('negative', 'typical', 'indeterminate', 'atypical')
COLUMNS = (
    'Negative for Pneumonia',
    'Typical Appearance',
    'Indeterminate Appearance',
    'Atypical Appearance',
)
# 64 x 48 padded to 64 x 64: at 16 px each prepared pixel is the mean of 4 x 4, at 32 of 2 x 2.
HEIGHT, WIDTH = 64, 48
SIZE = 16
STUDY_DATE = '20200229'


@dataclass
class Truth:
    """One image: `grey` [64, 48] is what was drawn, in [0, 1]; `mask` 0/1 or None."""

    path: str
    patient: str
    study: str
    image: str
    label: int
    sex: str
    age: int
    view: str
    site: str
    grey: np.ndarray
    mask: np.ndarray | None
    boxes: list[tuple[int, int, int, int]]


def write_siim_tree(root, patients_per_class=4, masks=True, seed=0):
    """Write the tree and return its list of Truth; every third patient has a second image."""
    rng = np.random.default_rng(seed)
    truths = []
    for number in range(patients_per_class * len(CLASSES)):
        patient, study = f'Patient-{number:04d}-{seed}', f'{number:011x}a'
        for image in range(1 + (number % 3 == 0)):
            truths.append(_draw(rng, number, patient, study, f'{number:010x}{image:x}b', masks))
            _write(root, truths[-1])
    write_tables(root, truths)
    return truths


def _draw(rng, number, patient, study, image, masks):
    label = number % len(CLASSES)
    grey = rng.integers(0, 4096, (HEIGHT, WIDTH)) / 4095
    grey[0, 0] = 1  # so that 12 bits are in use
    boxes = [] if label == 0 else [(8, 16, 12, 20), (28, 20, 8, 12)][: 1 + number % 2]
    mask = None
    if masks:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[12:52, 4:20] = mask[12:52, 28:44] = 1
    return Truth(
        path=f'train/{study}/{number:011x}c/{image}.dcm',
        patient=patient,
        study=study,
        image=image,
        label=label,
        sex='FM'[number // 4 % 2],
        age=30 + number,
        view=('PA', 'AP')[number // 8 % 2],
        site=f'Site {number // 4 % 3}',
        grey=grey,
        mask=mask,
        boxes=boxes,
    )


def _write(root, truth):
    inverted = truth.label == 1
    stored = np.rint((1 - truth.grey if inverted else truth.grey) * 4095).astype(np.int64)
    path = root / truth.path
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(
        stored,
        PhotometricInterpretation='MONOCHROME1' if inverted else 'MONOCHROME2',
        WindowCenter=2048,
        WindowWidth=4096,
        PatientID=truth.patient,
        PatientName=f'Doe^{truth.patient}',
        PatientBirthDate='19510607',
        StudyDate=STUDY_DATE,
        AccessionNumber='ACC-4711',
        StudyInstanceUID=generate_uid(entropy_srcs=[truth.study]),
        PatientSex=truth.sex,
        PatientAge=f'{truth.age:03d}Y',
        ViewPosition=truth.view,
        InstitutionName=truth.site,
        PixelSpacing=[0.5, 0.5],
    ).save_as(path, enforce_file_format=True)
    if truth.mask is not None:
        (root / 'lung_masks').mkdir(exist_ok=True)
        Image.fromarray(truth.mask * 255).save(root / 'lung_masks' / f'{truth.image}.png')


def write_tables(root, truths):
    """Both csv files as Kaggle has them."""
    studies = {truth.study: truth.label for truth in truths}
    with (root / 'train_study_level.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['id', *COLUMNS])
        for study, label in studies.items():
            writer.writerow([f'{study}_study', *(int(label == k) for k in range(4))])
    with (root / 'train_image_level.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['id', 'boxes', 'label', 'StudyInstanceUID'])
        for truth in truths:
            boxes = [dict(zip(('x', 'y', 'width', 'height'), b, strict=True)) for b in truth.boxes]
            words = [f'opacity 1 {x} {y} {x + w} {y + h}' for x, y, w, h in truth.boxes]
            writer.writerow(
                [
                    f'{truth.image}_image',
                    str(boxes) if boxes else '',
                    ' '.join(words) or 'none 1 0 0 1 1',
                    truth.study,
                ]
            )


def expected_image(truth, size, bits=8):
    """The prepared image [size, size] by block means of the padded square; HEIGHT is a multiple
    of size."""
    step = HEIGHT // size
    padded = np.pad(truth.grey, ((0, 0), ((HEIGHT - WIDTH) // 2,) * 2))
    means = padded.reshape(size, step, size, step).mean((1, 3))
    return np.rint(means * (2**bits - 1))


def prepare_siim(raw, data_dir, size=SIZE, processes=1, **settings):
    return prepare('siim_covid19', raw, data_dir, size=size, processes=processes, **settings)


def stored_records(prepared):
    """All records, as TFDS itself decodes them, with their split."""
    builder = tfds.builder_from_directory(str(prepared.directory / VERSION))
    records = builder.as_data_source(SPLIT)
    return [r | {'split': str(s)} for r, s in zip(records, prepared.index.split, strict=True)]


def by_pixels(prepared):
    return {record['image'].tobytes(): record for record in stored_records(prepared)}


def expected_bytes(truth):
    return expected_image(truth, SIZE).astype(np.uint8).tobytes()

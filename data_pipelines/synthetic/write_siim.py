"""Write the embedded data set in the layout of SIIM-FISABIO-RSNA COVID-19 Detection."""
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.preparing.workers import Died, map_isolated
from data_pipelines.progress import with_progress
from data_pipelines.raw.dicom_write import Storage, write_dicom
from data_pipelines.synthetic.cases import CLASSES, Case, first_cases
from data_pipelines.synthetic.imaging import Phantom, draw_phantom, draw_radiograph
from data_pipelines.synthetic.siim_tables import ListedImage, write_mask, write_splits, write_tables
from data_pipelines.synthetic.sites import SITES

RECIPE_VERSION = 1  # raise when the pictures change: an unfinished folder is then not continued
SMALLEST_IMAGE = 32


def storage_of(case: Case) -> Storage:
    """The site's way of storing; some of its files are compressed."""
    site = SITES[case.site]
    syntax, share = site.compressed
    compressed = case.rng('image', 12).random() < share
    return replace(site.storage, syntax=syntax) if compressed else site.storage


def header_of(case: Case, phantom: Phantom) -> dict:
    """DICOM keywords and values; the ids equal the names of folders and file, as in SIIM."""
    site = SITES[case.site]
    spacing = round(phantom.spacing, 5)
    return {
        'SOPInstanceUID': case.uid('image'),
        'StudyInstanceUID': case.uid('study'),
        'SeriesInstanceUID': case.uid('series'),
        'Modality': 'CR' if case.view == 'AP' else 'DX',
        'InstitutionName': site.name,
        'Manufacturer': site.manufacturer,
        'PatientName': f'SYNTHETIC^{case.patient:06d}',
        'PatientID': case.patient_id,
        'PatientSex': case.sex,
        'PatientAge': f'{case.age:03d}Y',
        'BodyPartExamined': 'CHEST',
        'ViewPosition': case.view,
        'SeriesNumber': str(case.image + 1),
        'InstanceNumber': '1',
        'BurnedInAnnotation': 'YES',
        'PixelSpacing': [spacing, spacing],
    }


def write_image(case: Case, directory: str, image_size: int) -> ListedImage:
    """Write one DICOM file and its mask, unless both exist; the DICOM file comes last."""
    root = Path(directory)
    phantom = draw_phantom(case, image_size)
    boxes = phantom.boxes if case.annotated else []
    listed = ListedImage(
        case.uid('study'), case.uid('series'), case.uid('image'), case.label, boxes
    )
    picture, mask = listed.dicom_path(root), listed.mask_path(root)
    if not (picture.exists() and mask.exists()):
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_mask(mask, phantom.lung_mask)
        values = draw_radiograph(case, phantom)
        write_dicom(picture, values, storage_of(case), header_of(case, phantom))
    return listed


def _claim(root: Path, recipe: dict) -> int:
    """Note what the folder will hold; the number of images it is complete for, 0 if unfinished."""
    note = root / 'synthetic.json'
    if note.exists():
        found = json.loads(note.read_text(encoding='utf-8'))
        finished = found.pop('n_images', 0)
        if found != recipe:
            raise UserError(
                f'{root} holds a synthetic data set made with {json.dumps(found)}, which differs '
                f'from {json.dumps(recipe)}. Choose another folder or delete this one.'
            )
        return finished
    if any(not path.name.startswith('.') for path in root.iterdir()):
        raise UserError(
            f'{root} is not empty and holds no synthetic data set. Choose another folder.'
        )
    _save_note(note, recipe)
    return 0


def _save_note(note: Path, content: dict) -> None:
    temporary = note.with_name(f'.{note.name}.tmp')
    temporary.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, note)


def _check(n_images: int, shortcut: float, class_weights: tuple, image_size: int) -> None:
    if n_images < 1 or image_size < SMALLEST_IMAGE:
        raise UserError(
            f'A synthetic set needs at least 1 image of at least {SMALLEST_IMAGE} pixels, not '
            f'n_images={n_images} of image_size={image_size}.'
        )
    if not 0 <= shortcut <= 1:
        raise UserError(f'shortcut is a probability between 0 and 1, not {shortcut}.')
    if len(class_weights) != len(CLASSES) or min(class_weights) < 0 or not sum(class_weights) > 0:
        raise UserError(
            f'class_weights needs one number of at least 0 for each of {", ".join(CLASSES)}, not '
            f'{class_weights}.'
        )


def generate(
    directory: str | Path,
    n_images: int,
    seed: int,
    shortcut: float = 0.0,
    image_size: int = 320,
    processes: int = 2,
    class_weights: tuple[float, float, float, float] = (0.3, 0.3, 0.2, 0.2),
) -> None:
    """Write `n_images` phantom radiographs, their masks and the tables into `directory`.

    Image k is a function of (seed, k, shortcut, image_size, class_weights) alone, so a stopped
    run continues and a finished set can be enlarged. `image_size` is the longest side in pixels;
    `class_weights` the mix of negative, typical, indeterminate, atypical. `shortcut` is the
    probability that the burned-in marker of a train or validation patient follows the label; if
    it is positive, splits.csv prescribes the split of each patient. Raises UserError for wrong
    arguments and for a folder with other contents.
    """
    _check(n_images, shortcut, class_weights, image_size)
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    recipe = {
        'recipe': RECIPE_VERSION, 'seed': seed, 'shortcut': shortcut, 'image_size': image_size,
        'class_weights': list(class_weights),
    }  # fmt: skip
    if _claim(root, recipe) == n_images:
        return
    (root / 'lung_masks').mkdir(exist_ok=True)
    cases = first_cases(n_images, seed, tuple(class_weights), shortcut)
    write = partial(write_image, directory=str(root), image_size=image_size)
    if processes > 1:
        outcomes = with_progress(map_isolated(write, cases, processes), n_images, 'drawing')
    else:
        outcomes = ((case, write(case)) for case in cases)
    listed = dict(outcomes)
    dead = [outcome for outcome in listed.values() if isinstance(outcome, Died)]
    if dead:
        raise UserError(f'Drawing stopped: {dead[0]}. Start again to draw what is missing.')
    write_tables(root, [listed[case] for case in cases])
    if shortcut > 0:
        write_splits(root, {case.patient_id: case.split for case in cases})
    _save_note(root / 'synthetic.json', {**recipe, 'n_images': n_images})

"""The index of a prepared set: what is known of every image, without reading its pixels."""

import dataclasses
from pathlib import Path

import numpy as np

INDEX_FILE = 'index.npz'
YES, NO, UNCERTAIN, NOT_SAID = 1, 0, -1, -2  # what `labels` say of a name


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Columns over all N images in stored order; they cannot be written to.

    Ids are pseudonyms, the same for all prepared sets of one data folder. `content` and
    `mask_content` are 32 hex digits of the SHA-256 of the prepared pixels and of the lung mask.
    `sums` and `lung_sums` are the count, sum and sum of squares of all pixels and of those of the
    lungs (zeros without a mask).
    """

    image_id: np.ndarray  # str
    patient: np.ndarray  # str, '' = unknown
    study: np.ndarray  # str; the image's own id if the study is unknown
    source: np.ndarray  # str, such as the institution; '' = unknown
    view: np.ndarray  # 'PA', 'AP' or ''
    sex: np.ndarray  # 'F', 'M' or ''
    age: np.ndarray  # float32, years, nan = unknown
    split: np.ndarray  # 'train', 'validation' or 'test'
    has_mask: np.ndarray  # bool
    has_boxes: np.ndarray  # bool
    labels: np.ndarray  # int8 [N, F]: YES, NO, UNCERTAIN or NOT_SAID of each of the set's names
    content: np.ndarray  # str
    mask_content: np.ndarray  # str, '' without a mask
    sums: np.ndarray  # int64 [N, 3]
    lung_sums: np.ndarray  # int64 [N, 3]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            column = np.asarray(getattr(self, field.name))
            if len(column) != len(self.image_id):
                raise ValueError(f'the column {field.name} has {len(column)} rows')
            column.setflags(write=False)
            object.__setattr__(self, field.name, column)

    def __len__(self) -> int:
        return len(self.image_id)

    def save(self, path: Path) -> None:
        """Writes the columns, texts as UTF-8 bytes: four times smaller than NumPy's."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        np.savez(
            path,
            **{
                name: np.char.encode(column, 'utf-8') if column.dtype.kind == 'U' else column
                for name, column in columns.items()
            },
        )


def load_index(path: Path) -> Index:
    """What Index.save wrote. Raises OSError, ValueError, KeyError or BadZipFile."""
    with np.load(path, allow_pickle=False) as stored:
        columns = {field.name: stored[field.name] for field in dataclasses.fields(Index)}
    return Index(
        **{
            name: np.char.decode(column, 'utf-8') if column.dtype.kind == 'S' else column
            for name, column in columns.items()
        }
    )

"""What one record of a prepared set holds: its TFDS features, and how to read them fast."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

VERSION = '1.0.0'
# The one TFDS split: who is trained on is for the index to say. ('all' is TFDS's own word.)
SPLIT = 'images'
TEXT_FIELDS = ('image_id', 'study', 'patient', 'sex', 'view', 'source', 'columns')
FLOAT_FIELDS = {'age': (), 'boxes': (-1, 4), 'spacing': (2,)}
INTEGER_FIELDS = {'original_size': (2,)}
# What is read of a record. It holds its labels as well, for those who read it without the index.
FIELDS = ('image', 'lung_mask', 'has_lung_mask', *TEXT_FIELDS, *FLOAT_FIELDS, *INTEGER_FIELDS)


def pixel_type(bits: int) -> type[np.unsignedinteger]:
    return np.uint8 if bits == 8 else np.uint16


def features(
    size: int, bits: int, labels: int, channels: int = 1
) -> tfds.features.FeaturesDict:
    """The TFDS features of a prepared set: FIELDS and `labels`, 1, 0, -1 (uncertain) or -2 (not
    said) for each of the set's names."""
    tensor, text = tfds.features.Tensor, tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            # Raw bytes: without an encoding TFDS stores a 64-bit integer per pixel.
            'image': tensor(
                shape=(size, size, channels), dtype=pixel_type(bits), encoding='bytes'
            ),
            'lung_mask': tensor(shape=(size, size, 1), dtype=np.uint8, encoding='zlib'),
            'has_lung_mask': np.bool_,
            'labels': tensor(shape=(labels,), dtype=np.int8),
            'age': np.float32,
            'boxes': tensor(shape=(None, 4), dtype=np.float32),
            'spacing': tensor(shape=(2,), dtype=np.float32),
            'original_size': tensor(shape=(2,), dtype=np.int32),
            **{name: text() for name in TEXT_FIELDS},
        }
    )


def decode(raw: bytes, fields: Sequence[str], size: int, bits: int) -> dict:
    """The named fields of one stored record; what is not named costs nothing but the parsing.

    TFDS's own deserialize_example_np gives the same values at a third of the speed.
    """
    stored = tf_example_pb2.Example.FromString(raw).features.feature
    record = {}
    for name in fields:
        value = stored[name]
        if name == 'image':
            pixels = np.frombuffer(value.bytes_list.value[0], pixel_type(bits))
            record[name] = pixels.reshape(size, size, -1)
        elif name == 'lung_mask':
            pixels = zlib.decompress(value.bytes_list.value[0])
            record[name] = np.frombuffer(pixels, np.uint8).reshape(size, size, 1)
        elif name == 'has_lung_mask':
            record[name] = bool(value.int64_list.value[0])
        elif name in TEXT_FIELDS:
            record[name] = value.bytes_list.value[0].decode()
        elif name in FLOAT_FIELDS:
            # list(), because NumPy walks protobuf's own sequences five times as slowly.
            numbers = np.array(list(value.float_list.value), np.float32)
            record[name] = numbers.reshape(FLOAT_FIELDS[name])
        else:
            numbers = np.array(list(value.int64_list.value), np.int32)
            record[name] = numbers.reshape(INTEGER_FIELDS[name])
    return record


class SerializedRecords:
    """The records of ArrayRecord files (TFDS's file instructions) by number; thread-safe.

    array_record's own data source starts threads for every call and one more pool per file,
    which takes longer than reading a few records: half of the speed on two cores.
    """

    def __init__(self, files: Sequence):
        self._files = files
        self._ends = np.cumsum([file.take for file in files])
        self._reader = functools.cache(self._open)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _open(self, file: int) -> ArrayRecordReader:
        # 32 KiB: a larger buffer reads more than the record that is asked for.
        return ArrayRecordReader(
            self._files[file].filename,
            options='readahead_buffer_size:0,max_parallelism:0',
            file_reader_buffer_size=2**15,
        )

    def read(self, numbers: np.ndarray) -> list[bytes]:
        records = [b''] * len(numbers)
        of_file = np.searchsorted(self._ends, numbers, side='right')
        for file in np.unique(of_file):
            places = np.flatnonzero(of_file == file)
            first = self._ends[file] - self._files[file].take - self._files[file].skip
            read = self._reader(file).read((numbers[places] - first).tolist())
            for place, record in zip(places, read, strict=True):
                records[place] = record
        return records

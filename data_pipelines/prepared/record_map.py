"""The records of a prepared set as a memory map: pixels go from the files straight into a batch.

A record file is a series of blocks (Riegeli's records format: Google's documentation in
google/riegeli), each of which opens with a head that belongs to no record. What is left is one
stream: chunks of a header and a record, uncompressed as preparing.build writes them. Where the
parts of each record lie in its stream is found once and kept beside the records in PLACES_FILE,
which may be deleted.
"""

import contextlib
import mmap
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_feature_pb2

from data_pipelines.errors import UserError
from data_pipelines.files import replacing

PLACES_FILE = 'places.npz'
BLOCK, BLOCK_HEAD = 2**16, 24
ROOM = BLOCK - BLOCK_HEAD
# Hash of the header, size and hash of the data, kind and number of records, size when decoded.
CHUNK_HEADER = struct.Struct('<QQQQQ')
ONE_RECORD = ord('r') | 1 << 8
# Of a record: where its fields start, the image among them, the image's bytes, and their ends.
START, IMAGE_FIELD, IMAGE, IMAGE_END, END = range(5)


class _Stream:
    """The bytes of one record file without the heads of its blocks; thread-safe.

    The file must not be cut off while it is mapped: its size is checked when it is opened.
    """

    def __init__(self, path: str | os.PathLike):
        with open(path, 'rb') as file:
            mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
        if len(mapped) % BLOCK:
            raise ValueError('it does not end with a whole block')
        self._blocks = mapped.reshape(-1, BLOCK)[:, BLOCK_HEAD:]

    def copy(self, start: int, out: np.ndarray) -> None:
        """Fills `out`, uint8 [n], with the bytes from `start` on."""
        block, offset = divmod(start, ROOM)
        first = min(ROOM - offset, len(out))
        out[:first] = self._blocks[block, offset : offset + first]
        whole, last = divmod(len(out) - first, ROOM)
        if whole:
            blocks = self._blocks[block + 1 : block + 1 + whole]
            out[first : first + whole * ROOM].reshape(whole, ROOM)[:] = blocks
        if last:
            out[-last:] = self._blocks[block + 1 + whole, :last]

    def read(self, start: int, stop: int) -> bytes:
        found = np.empty(stop - start, np.uint8)
        self.copy(start, found)
        return found.tobytes()


class RecordMap:
    """The records of ArrayRecord files (TFDS's file instructions) by number; thread-safe."""

    def __init__(self, files: Sequence, places: np.ndarray):
        self._streams = [_Stream(file.filename) for file in files]
        self._ends = np.cumsum([file.take for file in files])
        self._places = places

    def images(self, numbers: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Puts the images of these records at `at` of `out` [N, ...], their bytes as stored."""
        rows = out.reshape(len(out), -1).view(np.uint8)
        starts = self._places[numbers, IMAGE].tolist()
        for stream, start, place in zip(self._of(numbers), starts, at.tolist(), strict=True):
            stream.copy(start, rows[place])

    def others(self, numbers: np.ndarray) -> list:
        """All other features of these records, name to value: a map of tf.train.Feature."""
        found = []
        for stream, place in zip(self._of(numbers), self._places[numbers].tolist(), strict=True):
            before = stream.read(place[START], place[IMAGE_FIELD])
            after = stream.read(place[IMAGE_END], place[END])
            found.append(tf_feature_pb2.Features.FromString(before + after).feature)
        return found

    def _of(self, numbers: np.ndarray) -> list[_Stream]:
        """The file of each record."""
        return [self._streams[k] for k in np.searchsorted(self._ends, numbers, side='right')]


def open_map(directory: Path, files: Sequence, identity: str, image_bytes: int) -> RecordMap:
    """Maps the record files of the prepared set in `directory`.

    `identity` tells one preparation from another, `image_bytes` is the size of a stored image.
    The places are those kept, if they are of these files, else they are found and, where that is
    allowed, kept. UserError for files that prepare did not write so.
    """
    sizes = [os.path.getsize(file.filename) for file in files]
    of = f'{identity} {image_bytes} {sizes}'
    path = directory / PLACES_FILE
    places = _kept(path, of)
    if places is None:
        places = np.concatenate([_find(file, image_bytes) for file in files])
        # A folder that cannot be written to is read all the same.
        with contextlib.suppress(OSError):
            _keep(path, of, places)
    return RecordMap(files, places)


def _kept(path: Path, of: str) -> np.ndarray | None:
    """What _keep wrote for `of`; None if it is not there, damaged, or of something else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored['places'] if str(stored['of']) == of else None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, of: str, places: np.ndarray) -> None:
    """Complete or not at all, and whichever process comes last: all write the same."""
    with replacing(path) as new, new.open('wb') as file:
        np.savez(file, of=of, places=places)


def _find(file, image_bytes: int) -> np.ndarray:
    """The places int64 [n, 5] of a file's records, each compared with what ArrayRecord reads."""
    reader = ArrayRecordReader(
        file.filename, options='readahead_buffer_size:0,max_parallelism:0',
        file_reader_buffer_size=BLOCK // 2,
    )  # fmt: skip
    places, position = np.zeros((file.take, 5), np.int64), 0
    try:
        stream = _Stream(file.filename)
        for number in range(file.take):
            kind = None
            while kind != ONE_RECORD:  # the file's signature comes first
                data = position + CHUNK_HEADER.size
                _, size, _, kind, _ = CHUNK_HEADER.unpack(stream.read(position, data))
                position = data + size
            (record,) = reader.read([number])
            start = position - len(record)
            if stream.read(start, position) != record:
                raise ValueError(f'record {number} is not stored as it is')
            places[number] = start + np.array(_parts(record, image_bytes))
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(
            f'{file.filename} is not as data_pipelines.prepare writes it ({error}). Delete the '
            'prepared set and prepare it again.'
        ) from None
    finally:
        reader.close()
    return places


def _parts(record: bytes, image_bytes: int) -> tuple[int, int, int, int, int]:
    """START .. END in a serialized tf.train.Example: one field, of fields, each a name and its
    value, which ends with its bytes."""
    size, start = _varint(record, 1)
    position = start
    while position < start + size:
        length, entry = _varint(record, position + 1)
        end = entry + length
        if record[entry : entry + 7] == b'\x0a\x05image':
            if length < image_bytes:
                raise ValueError('an image has another size')
            return start, position, end - image_bytes, end, len(record)
        position = end
    raise ValueError('a record has no image')


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(a number, the position after it) in the variable length of protocol buffers."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position

"""Write a prepared set as a TFDS data set in ArrayRecord files, without TensorFlow."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer

from data_pipelines.prepared.records import SPLIT, VERSION, features

# Many files allow parallel copies; few keep the number of open files small.
SHARD_BYTES = 512 * 2**20


class _ArrayRecordWriter(tfds_writer.ExampleWriter):
    """Uncompressed: zstd would save a tenth of the room and cost half of the reading speed."""

    def write(self, path: os.PathLike, examples: Iterable) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
        for _, serialized in examples:
            writer.write(serialized)
        writer.close()


class RecordsBuilder(tfds.core.ShardBasedBuilder):
    """Records in a given order, in shards of a given size.

    GeneratorBasedBuilder would keep up to 1 GiB in memory to shuffle and then needs TensorFlow;
    here the order is already random, because it is that of hashed names.
    """

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # no checksums or metadata lie beside this file for TFDS to look for

    def __init__(self, card: Mapping, shards: list[Callable], **kwargs):
        # Not the set's own name, which may be anything that a folder may be called.
        self.name = card['dataset']
        self._card, self._shards = card, shards
        super().__init__(config=tfds.core.BuilderConfig(name=f'{card["size"]}px'), **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'Prepared radiographs, fingerprint {self._card["fingerprint"]}',
            features=features(
                self._card['size'], self._card['bits'], len(self._card['names']),
                self._card['channels'],
            ),
        )

    def _shard_iterators_per_split(self, dl_manager) -> Mapping[str, list[Callable]]:
        return {SPLIT: self._shards}

    def _example_writer(self) -> tfds_writer.ExampleWriter:
        return _ArrayRecordWriter(self.info.file_format)


def write_records(
    directory: Path, card: Mapping, entries: Sequence, make: Callable[[object], dict]
) -> Path:
    """Write `make(entry)` for all entries in their order, as one TFDS split.

    `card` tells 'dataset', 'size', 'bits', 'channels', 'names' and 'fingerprint'. The files come to
    lie in <directory>/<dataset>/<size>px/1.0.0, which appears complete or not at all; that folder's
    parent is returned.
    """
    per_shard = max(1, SHARD_BYTES // (card['size'] ** 2 * card['channels'] * card['bits'] // 8))

    def generator(part: Sequence) -> Callable[[], Iterator[tuple[int, dict]]]:
        return lambda: ((number, make(entry)) for number, entry in enumerate(part))

    shards = [
        generator(entries[start : start + per_shard]) for start in range(0, len(entries), per_shard)
    ]
    with quiet():
        builder = RecordsBuilder(card, shards, data_dir=directory, file_format='array_record')
        builder.download_and_prepare()
    return Path(builder.data_path).parent


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence TFDS, which prints to stdout, draws progress bars and logs warnings."""
    tfds.disable_progress_bar()
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)

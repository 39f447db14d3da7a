"""Prepare files with Apache Beam, on as many machines as its runner has.

Every machine must see the source and the data folder under the same paths and have this package
installed. Beam fills the cache of ingest.py; the ordinary preparation then finds nothing left to
do but the files that cannot be read, and puts the set together. TFDS's own Beam builders (4.9.10)
are not used: they run the pipeline again for every split, and sort the files as texts, which mixes
up the lengths of more than ten.
"""

from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.preparing import ingest
from data_pipelines.preparing.workers import map_isolated

FILES_AT_ONCE = 64


def prepare_some(tasks: Sequence[ingest.FileTask]) -> None:
    """One step of the pipeline. In a process of its own, as a decoder may die of a broken file."""
    for _ in map_isolated(ingest.prepare_file, tasks, processes=1):
        pass


def prepare_files(tasks: Sequence[ingest.FileTask], runner: str, options: Sequence[str]) -> None:
    """Prepare what can be read of `tasks` by the Beam runner of this name; UserError.

    `options` are Beam's own flags, such as '--project=...'.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(
            '--beam_runner needs Apache Beam, which is not installed. Install it with: pip '
            'install apache-beam (in an environment of its own if its versions differ).'
        ) from None
    parts = [list(tasks[i : i + FILES_AT_ONCE]) for i in range(0, len(tasks), FILES_AT_ONCE)]
    try:
        pipeline = apache_beam.Pipeline(runner=runner, options=PipelineOptions(list(options)))
    except ValueError as error:
        raise UserError(f'Apache Beam cannot use the runner {runner!r}: {error}') from None
    with pipeline:
        files = pipeline | apache_beam.Create(parts) | apache_beam.Reshuffle()
        files | apache_beam.Map(prepare_some)

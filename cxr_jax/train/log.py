"""What a stage says while it trains: progress bar, JSONL of metrics, TensorBoard events."""

import itertools
import json
import os
import pathlib
import sys
import time

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cxr_jax.store.files import write_text

PLAIN_LINE_SECONDS = 20.0
BOOKKEEPING = ('step', 'seconds', 'session')


class StageLog:
    """Metrics of one stage; on resume everything after the restored step is dropped first."""

    def __init__(
        self,
        directory: pathlib.Path,
        name: str,
        start: int,
        total: int,
        batch_size: int,
        show: bool = True,
    ):
        self.path = directory / 'metrics.jsonl'
        self.rows = [row for row in read_metrics(self.path) if row['step'] <= start]
        write_text(self.path, ''.join(json.dumps(row) + '\n' for row in self.rows))
        self.sessions = 1 + len({row['session'] for row in self.rows})
        self._file = open(self.path, 'a', buffering=1)  # noqa: SIM115 (open for the whole stage)
        # Not tensorboardX's SummaryWriter, whose thread ends on a full disk: training would hang.
        folder = directory / 'tensorboard'
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / 'events'), f'.{self.sessions}')
        restart = SessionLog(status=SessionLog.START)  # TensorBoard drops steps from here on
        self._events.write_event(Event(step=start + 1, session_log=restart))
        self._batch_size = batch_size
        self._seconds_before = self.rows[-1]['seconds'] if self.rows else 0.0
        self._started = time.monotonic()
        self._spoken = 0.0
        self._name, self._start, self._total, self._show = name, start, total, show
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            desc=name,
            unit='step',
            disable=not (show and sys.stderr.isatty()),
            dynamic_ncols=True,
            mininterval=0.5,
        )

    @property
    def seconds(self) -> float:
        """Time spent in this stage, over all its sessions."""
        return self._seconds_before + time.monotonic() - self._started

    def write(self, rows: list[dict], epoch: float) -> None:
        """Appends one row per step; `epoch` of the last one, for the progress display."""
        stamp = {'seconds': round(self.seconds, 3), 'session': self.sessions}
        for row in rows:
            row |= stamp
            self._file.write(json.dumps(row) + '\n')
            values = [
                Summary.Value(tag=name, simple_value=value)
                for name, value in row.items()
                if name not in BOOKKEEPING
            ]
            self._events.write_event(
                Event(wall_time=time.time(), step=row['step'], summary=Summary(value=values))
            )
        self._events.flush()
        self.rows += rows
        self._bar.set_postfix_str(f'epoch {epoch:.1f}, loss {rows[-1]["loss"]:.4f}', refresh=False)
        self._bar.update(len(rows))
        if self._show and self._bar.disable:
            self._plain_line(rows[-1], epoch)

    def sync(self) -> None:
        """Forces the rows to disk: no checkpoint may survive a power cut without them."""
        os.fsync(self._file.fileno())

    def _plain_line(self, row: dict, epoch: float) -> None:
        now, total = time.monotonic(), self._total
        if now - self._spoken < PLAIN_LINE_SECONDS and row['step'] < total:
            return
        self._spoken = now
        done = row['step'] - self._start
        rate = done / max(now - self._started, 1e-9)
        left = (total - row['step']) / max(rate, 1e-9)
        print(
            f'  {self._name}: epoch {epoch:.1f}, step {row["step"]}/{total}, '
            f'loss {row["loss"]:.4f}, {rate * self._batch_size:.0f} images/s, {left:.0f} s left',
            flush=True,
        )

    def images_per_second(self) -> float | None:
        """Rate of the training itself, from each session's first fetch (after compiling) on."""
        seconds = steps = 0
        for _, session in itertools.groupby(self.rows, lambda row: row['session']):
            rows = list(session)
            seconds += rows[-1]['seconds'] - rows[0]['seconds']
            steps += sum(row['seconds'] > rows[0]['seconds'] for row in rows)
        return round(steps * self._batch_size / seconds, 1) if steps else None

    def mean_before(self, step: int, steps: int) -> dict[str, float]:
        """Mean of every metric over the last `steps` steps up to `step`; {} if somebody removed the
        log."""
        rows = [row for row in self.rows if row['step'] <= step][-steps:]
        names = [name for row in rows[-1:] for name in row if name not in BOOKKEEPING]
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._events.close()


def read_metrics(path: pathlib.Path) -> list[dict]:
    """Rows of a metrics file; a last line cut short by a crash is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(errors='replace').splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows

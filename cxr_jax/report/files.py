"""Files of a report: results as JSON, a page, and pictures, each written atomically."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping

from matplotlib.figure import Figure

from cxr_jax.store.files import write_atomically, write_text


def check_keys(kind: str, part: Mapping, keys: str) -> None:
    """ValueError if a part of what is to be reported lacks one of the keys."""
    missing = [key for key in keys.split() if key not in part]
    if missing:
        raise ValueError(f'{kind} to be reported lacks {", ".join(missing)}')


def write_pictures(
    folder: pathlib.Path, pictures: Mapping[str, Callable[[], Figure]], older: Iterable[str]
) -> list[pathlib.Path]:
    """Draws and writes each picture; those of `older` that are not among them are removed."""
    for name in older:
        if name not in pictures:
            (folder / name).unlink(missing_ok=True)
    for name, draw in pictures.items():
        figure = draw()
        write_atomically(folder / name, lambda path, figure=figure: _save(figure, path))
    return [folder / name for name in pictures]


def write_page(directory: pathlib.Path, name: str, page: str, results: dict) -> list[pathlib.Path]:
    """`name`.md and then, last of all files, `name`.json."""
    text = json.dumps(json_ready(results), indent=1, ensure_ascii=False, allow_nan=False)
    paths = [directory / f'{name}.md', directory / f'{name}.json']
    for path, content in zip(paths, (page, text + '\n'), strict=True):
        write_text(path, content)
    return paths


def json_ready(value: object) -> object:
    """Plain JSON types: arrays become lists, what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if hasattr(value, 'tolist'):  # NumPy and JAX arrays and scalars
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _save(figure: Figure, path: pathlib.Path) -> None:
    # Without the version string equal results give equal bytes.
    figure.savefig(path, format='png', dpi=160, bbox_inches='tight', pad_inches=0.08,
                   metadata={'Software': None})

"""What has to be read to understand one run, counted: files and lines, in reading order.

    python -m scripts.reading_list [--task rot]

The list begins with the function that runs a curriculum (START). Then the places that a run leads
to (ENDS: what a stage is, the loop that trains it, where its parameters change and what else does,
the network, the test) are looked for one after the other: the shortest chain of imports from any
file on the list to the end, every file on it, is appended. So a layer that is put in between is on
the list as well. The task is the one exception to following imports: a config names it, and the
registry and the settings between are skipped; its contract (tasks/base.py) and its own file are
listed.

Not listed is what these files import beside the chains: helpers with a contract of their own, that
are read when they are changed (views, optimisers, the loader, collectives, the store, searches,
figures, pages). The last line counts the whole closure, all that the list imports, at any depth.

Imports are read from the source, those inside functions too, without running anything. A line is
`code`, `text` (comments, docstrings) or blank.
"""

import argparse
import ast
import collections
import dataclasses
import functools
import io
import pathlib
import sys
import tokenize
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('cxr_jax', 'data_pipelines')
START = 'cxr_jax.run.curriculum'
BASE = 'cxr_jax.tasks.base'
# In reading order; '' is the task.
ENDS = (
    'cxr_jax.run.plan', 'cxr_jax.train.loop', 'cxr_jax.train.step', 'cxr_jax.train.state', BASE,
    '', 'cxr_jax.models.encoder', 'cxr_jax.evaluation.predict',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Source:
    """A file: its path below the root, what it says of itself, and its lines."""

    path: str
    title: str  # first line of the docstring
    code: int
    text: int
    lines: int


def reading_list(task: str, root: pathlib.Path = ROOT) -> list[str]:
    """Modules to be read, in order; ValueError if an end is not reached."""
    found = [START]
    for end in ENDS:
        if not end:
            found.append(f'cxr_jax.tasks.{task}')
            continue
        found += [module for module in chain(found, end, root) if module not in found]
    return found


def chain(starts: Iterable[str], end: str, root: pathlib.Path = ROOT) -> list[str]:
    """The modules behind a start, up to `end`, on the shortest chain of imports.

    Of chains of one length that of the earlier start and import; ValueError if there is none.
    """
    came_from = dict.fromkeys(starts)
    queue = collections.deque(came_from)
    while queue:
        module = queue.popleft()
        if module == end:
            found = []
            while came_from[module]:
                found.append(module)
                module = came_from[module]
            return found[::-1]
        for other in imports(module, root):
            if other not in came_from:
                came_from[other] = module
                queue.append(other)
    raise ValueError(f'nothing on the list leads to {end}')


def closure(starts: Iterable[str], root: pathlib.Path = ROOT) -> list[str]:
    """The modules and all that they import, at any depth."""
    found, queue = set(starts), list(starts)
    while queue:
        new = [module for module in imports(queue.pop(), root) if module not in found]
        found.update(new)
        queue += new
    return sorted(found)


@functools.cache
def imports(module: str, root: pathlib.Path = ROOT) -> tuple[str, ...]:
    """The modules of PACKAGES that a module names in its imports, in their order."""
    found = []
    for node in ast.walk(ast.parse(path_of(module, root).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition('.')[0] in PACKAGES:
                # What is imported is a module, or something out of one.
                inside = path_of(name, root).is_file()
                found.append(name if inside else name.rpartition('.')[0])
    return tuple(dict.fromkeys(found))


def path_of(module: str, root: pathlib.Path = ROOT) -> pathlib.Path:
    """The file of a module or of a package."""
    path = root.joinpath(*module.split('.'))
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def read(module: str, root: pathlib.Path = ROOT) -> Source:
    """The file of a module, its lines told apart."""
    path = path_of(module, root)
    content = path.read_text()
    tree = ast.parse(content)
    text = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(content).readline)
        if token.type == tokenize.COMMENT and token.line.strip().startswith('#')
    }
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = content.splitlines()
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()} - text
    title = (ast.get_docstring(tree) or '').partition('\n')[0]
    return Source(
        str(path.relative_to(root)), title, len(lines) - len(text | blank), len(text), len(lines)
    )


def table(sources: Sequence[Source]) -> str:
    """A line for each file, and their sum."""
    width = max(len(source.path) for source in sources)
    counted = [[getattr(source, name) for source in sources] for name in ('lines', 'code', 'text')]
    head = f'{"lines":>6}{"code":>6}{"text":>6}  '
    rows = [
        f'{source.lines:6,}{source.code:6,}{source.text:6,}  {source.path:{width}}  {source.title}'
        for source in sources
    ]
    total = ''.join(f'{sum(column):6,}' for column in counted)
    return '\n'.join([head + 'file', *rows, f'{total}  {len(sources)} files'])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = sorted(path.stem for path in (ROOT / 'cxr_jax/tasks').glob('[!_]*.py'))
    tasks.remove('base')
    parser.add_argument('--task', default='rot', choices=tasks, help='the task of the stage')
    chosen = reading_list(parser.parse_args(argv).task)
    print(table([read(module) for module in chosen]))
    whole = [read(module) for module in closure(chosen)]
    lines, code = sum(source.lines for source in whole), sum(source.code for source in whole)
    print(f'\nAll that they import: {len(whole)} files, {lines:,} lines, {code:,} of code')
    return 0


if __name__ == '__main__':
    sys.exit(main())

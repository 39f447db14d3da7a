"""Damage to the largest file of a folder, which holds its arrays."""

import os
import pathlib


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.rglob('*') if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder: pathlib.Path) -> None:
    """Cuts it in half."""
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def change_one_bit(folder: pathlib.Path) -> None:
    """In the middle of an array: it decompresses, to another number."""
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_zeros(folder: pathlib.Path) -> None:
    path = largest_file(folder)
    path.write_bytes(bytes(path.stat().st_size))

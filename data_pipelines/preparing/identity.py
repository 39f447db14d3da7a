"""Identities: what of a patient's, study's or image's name may be kept, and where.

Three levels. The raw id (a header's PatientID, a csv's patient, a path) never leaves the process
that reads it. Its `digest` (plain SHA-256) decides splits, order and fingerprint, so these are
the same on every machine; it stays in the private cache, because ids are short and a digest can
be searched for. The `pseudonym` (HMAC of the digest with the salt of the data folder) is what
records, splits.csv and the card show; without the salt it cannot be searched for. A new salt
gives later preparations new pseudonyms and changes nothing else. It never leaves its machine: of a
data folder at a URL its hash is kept there, and a machine with another salt is refused.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.files import replacing
from data_pipelines.storage import places, units

SALT_FILE = '.salt'


def digest(kind: str, raw: str) -> str:
    """SHA-256 of a raw id of `kind` 'patient', 'study' or 'image'; the same on every machine."""
    # Names of files may be no valid UTF-8.
    return hashlib.sha256(f'cxr_jax {kind} {raw}'.encode(errors='surrogateescape')).hexdigest()


def pseudonym(salt: bytes, digest_: str) -> str:
    """32 hex digits for records: HMAC-SHA-256 of a digest, cut to 128 bits."""
    return hmac.new(salt, digest_.encode(), hashlib.sha256).hexdigest()[:32]


def read_or_create_salt(data_dir: Path) -> bytes:
    """The data folder's random salt, from a file only its owner can read; UserError where the sets
    at its URL were prepared with another."""
    path = data_dir / SALT_FILE
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with replacing(path, 0o600) as new:  # a killed run leaves no half salt
            new.write_text(secrets.token_hex(32))
    salt = bytes.fromhex(path.read_text())
    if not units.agree(data_dir / f'{SALT_FILE}.sha256', hashlib.sha256(salt).hexdigest()):
        raise UserError(
            f'The sets at {places.url_of(data_dir)} were prepared on another machine, with another '
            f'salt, so patients would not be recognised across them. Copy the file {SALT_FILE} of '
            f'that data folder from there to {path}, readable by you only, or prepare to another '
            '--data_dir.'
        )
    return salt

"""What a text on the command line names: a folder, the working copy of a URL, or a mistake."""

import pathlib

import pytest

from data_pipelines.errors import UserError
from data_pipelines.storage.places import local, name_of, url_of


@pytest.mark.parametrize(
    ('text', 'path'),
    [
        ('data', 'data'), ('/data/x', '/data/x'), ('./gs:/x', 'gs:/x'), ('a:b', 'a:b'),
        ('file:///data/x', '/data/x'), ('file://localhost/data', '/data'),
        ('file:///with%20space', '/with space'), ('FILE:///data', '/data'),
    ],
)  # fmt: skip
def test_folders_of_this_machine(text, path):
    assert local(text) == pathlib.Path(path) and url_of(local(text)) == ''
    assert name_of(local(text)) == path


@pytest.mark.parametrize('url', ['memory://bucket', 'memory://bucket/some/folder'])
def test_a_url_has_a_working_copy_for_each_machine(machine, tmp_path, url):
    expected = tmp_path / 'machines' / 'one' / url.replace('://', '/')
    assert local(url) == local(f'{url}/') == expected
    assert url_of(local(url)) == name_of(local(url)) == url
    assert local(expected) == expected  # a working copy may be named as a folder
    assert url_of(expected / 'below') == f'{url}/below'
    machine('two')
    assert url_of(expected) == '' and local(url) != expected


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('memory:/bucket/x', 'did you mean memory://bucket/x?'),
        ('memory://', 'did you mean memory://bucket/folder?'),
        ('memory://bucket//x', 'did you mean memory://bucket/x?'),
        ('memory://bucket/../other', 'did you mean memory://bucket/other?'),
        ('file:/data', 'did you mean file:///data?'),
        ('file://data', 'did you mean file:///data?'),
        ('http://host/x', 'file://, gs://, s3://'),
        ('hdfs://host/x', 'file://, gs://, s3://'),
        ('https:/host/x', 'file://, gs://, s3://'),
    ],
)
def test_what_cannot_be_used_is_refused(machine, text, words):
    with pytest.raises(UserError) as refused:
        local(text)
    assert text in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize(('scheme', 'package'), [('gs', 'gcsfs'), ('s3', 's3fs')])
def test_a_missing_backend_is_told_with_the_command(monkeypatch, scheme, package):
    monkeypatch.setitem(__import__('sys').modules, package, None)
    with pytest.raises(UserError, match=f'pip install {package}$'):
        local(f'{scheme}://bucket/x')

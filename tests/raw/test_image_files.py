"""PNG and JPEG files: depth, colour, transparency, damage."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.raw.dicom import UnreadableRadiograph, read_image_file

RNG = np.random.default_rng(19)
GREY = RNG.integers(0, 256, (20, 30)).astype(np.uint8)


@pytest.mark.parametrize('highest, one', [(65535, 65535), (4000, 4095), (200, 255)])
def test_grey_is_scaled_by_its_depth(tmp_path, highest, one):
    stored = RNG.integers(0, highest, (20, 30), endpoint=True).astype(np.uint16)
    stored[0, 0] = highest
    Image.fromarray(stored).save(tmp_path / 'image.png')
    radiograph = read_image_file(tmp_path / 'image.png')
    np.testing.assert_allclose(radiograph.pixels, stored / one, atol=1e-6)
    assert radiograph.header['bits'] == 16 and radiograph.header['transfer_syntax'] == 'PNG'
    assert np.isnan(radiograph.header['age']) and np.isnan(radiograph.header['spacing']).all()


@pytest.mark.parametrize('mode', ['L', 'RGB', 'P', 'LA'])
def test_grey_in_any_mode(tmp_path, mode):
    Image.fromarray(GREY).convert(mode).save(tmp_path / 'image.png')
    radiograph = read_image_file(tmp_path / 'image.png')
    assert radiograph.pixels.dtype == np.float32
    np.testing.assert_allclose(radiograph.pixels, GREY / 255, atol=1e-6)


def test_colour_becomes_luma_and_transparency_black(tmp_path):
    colour = RNG.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    colour[..., 3] = 255
    colour[:5, :, 3] = 0
    Image.fromarray(colour).save(tmp_path / 'image.png')
    expected = colour[..., :3] @ np.array([0.299, 0.587, 0.114]) / 255
    expected[:5] = 0
    pixels = read_image_file(tmp_path / 'image.png').pixels
    np.testing.assert_allclose(pixels, expected, atol=0.6 / 255)


def test_colour_is_kept_where_it_is_asked_for(tmp_path):
    """Transparency becomes black, grey of any depth three equal channels."""
    colour = RNG.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    colour[..., 3] = 255
    colour[:5, :, 3] = 0
    Image.fromarray(colour).save(tmp_path / 'image.png')
    expected = np.where(np.arange(20)[:, None, None] < 5, 0, colour[..., :3] / 255)
    np.testing.assert_allclose(read_image_file(tmp_path / 'image.png', 3).pixels, expected, 1e-6)
    deep = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    deep[0, 0] = 65535
    for grey, top in ((GREY, 255), (deep, 65535)):
        Image.fromarray(grey).save(tmp_path / 'grey.png')
        pixels = read_image_file(tmp_path / 'grey.png', 3).pixels
        np.testing.assert_allclose(pixels, (grey / top)[..., None].repeat(3, -1), atol=1e-6)


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8) * 2
    for mode in ('L', 'RGB'):
        Image.fromarray(smooth).convert(mode).save(tmp_path / 'image.jpg', quality=95)
        radiograph = read_image_file(tmp_path / 'image.jpg')
        np.testing.assert_allclose(radiograph.pixels, smooth / 255, atol=3 / 255)
        assert radiograph.header['transfer_syntax'] == 'JPEG'
        assert radiograph.header['photometric'] == mode


def test_damaged_files_have_a_reason(tmp_path):
    Image.fromarray(GREY).save(tmp_path / 'image.png')
    content = (tmp_path / 'image.png').read_bytes()
    for length in (0, 5, 30, 60, len(content) // 2):
        (tmp_path / 'cut.png').write_bytes(content[:length])
        with pytest.raises(UnreadableRadiograph):
            read_image_file(tmp_path / 'cut.png')
    Image.fromarray(GREY).save(tmp_path / 'image.bmp')
    with pytest.raises(UnreadableRadiograph, match='not a PNG or JPEG'):
        read_image_file(tmp_path / 'image.bmp')
    with pytest.raises(UnreadableRadiograph, match='No such file'):
        read_image_file(tmp_path / 'absent.png')

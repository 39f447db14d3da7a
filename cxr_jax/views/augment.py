"""One random view of an image, from the settings that every task shares."""

import dataclasses

import jax
import jax.numpy as jnp

from cxr_jax.store.settings import setting
from cxr_jax.views import geometry, intensity


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Rotation, crop, flip, brightness and contrast, blur, solarisation, in this order.

    0 switches a part off.
    """

    # Range of the crop's area, share of the image.
    crop_scale: tuple[float, float] = setting((0.08, 1.0), above=0, at_most=1)
    flip: float = setting(0.5, at_least=0, at_most=1, neutral=0.0)  # probability of a mirror image
    # Degrees: angle uniform in ± this.
    rotation: float = setting(0.0, at_least=0, at_most=180, neutral=0.0)
    # Probability of the brightness and contrast change.
    jitter: float = setting(0.0, at_least=0, at_most=1, neutral=0.0)
    brightness: float = setting(0.4, at_least=0, at_most=1)  # factor uniform in 1 ± this
    contrast: float = setting(0.4, at_least=0, at_most=1)  # factor uniform in 1 ± this
    blur: float = setting(0.0, at_least=0, at_most=1, neutral=0.0)  # probability of Gaussian blur
    # Pixels of the view: uniform in this range.
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), at_least=0)
    # Probability that the bright half of the grey values is inverted.
    solarize: float = setting(0.0, at_least=0, at_most=1, neutral=0.0)

    def inactive(self) -> set[str]:
        """Fields that do nothing with the values of the others."""
        unchanged = () if self.jitter else ('brightness', 'contrast')
        return {*unchanged, *(() if self.blur else ('blur_sigma',))}

    def __call__(self, key, image, size: int):
        """View [size, size, C] of an image [R, R, C] with values in [0, 1]."""
        rotate_key, crop_key, jitter_key, blur_key, solarize_key = jax.random.split(key, 5)
        if self.rotation > 0:
            limit = jnp.deg2rad(self.rotation)
            image = geometry.rotate(
                image, jax.random.uniform(rotate_key, minval=-limit, maxval=limit)
            )
        view = geometry.random_resized_crop(crop_key, image, size, self.crop_scale, self.flip)
        if self.jitter > 0:
            apply_key, factor_key = jax.random.split(jitter_key)
            jittered = intensity.random_brightness_contrast(
                factor_key, view, self.brightness, self.contrast
            )
            view = jnp.where(jax.random.bernoulli(apply_key, self.jitter), jittered, view)
        if self.blur > 0:
            apply_key, sigma_key = jax.random.split(blur_key)
            low, high = self.blur_sigma
            blurred = intensity.gaussian_blur(
                view, jax.random.uniform(sigma_key, minval=low, maxval=high)
            )
            view = jnp.where(jax.random.bernoulli(apply_key, self.blur), blurred, view)
        if self.solarize > 0:
            apply = jax.random.bernoulli(solarize_key, self.solarize)
            view = jnp.where(apply, intensity.solarize(view), view)
        return view

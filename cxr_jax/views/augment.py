"""One random view of an image, from the settings that every task shares."""

import dataclasses

import jax
import jax.numpy as jnp

from cxr_jax.views import geometry, intensity


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Rotation, crop, flip, brightness and contrast, blur, in this order; 0 switches a part off."""

    crop_scale: tuple[float, float] = (0.08, 1.0)  # range of the crop's area, share of the image
    flip: float = 0.5  # probability of a horizontal flip
    rotation: float = 0.0  # degrees: angle uniform in ± this
    jitter: float = 0.0  # probability of the brightness and contrast change
    brightness: float = 0.4  # factor uniform in 1 ± this
    contrast: float = 0.4  # factor uniform in 1 ± this
    blur: float = 0.0  # probability of the Gaussian blur
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view: uniform in this range

    def __call__(self, key, image, size: int):
        """View [size, size, 1] of an image [R, R, 1] with values in [0, 1]."""
        rotate_key, crop_key, jitter_key, blur_key = jax.random.split(key, 4)
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
        return view

"""Augmentation of training images: pure TensorFlow functions of (image bytes, seed, sample).

Randomness is by address: the numbers for a sample depend on (seed, epoch, sample) alone, never on a running stream,
so that any number of workers, and any resume, sees the same pixels.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

MIN_AREA = 0.5  # of the image; ImageNet's 0.08 hides small objects, and few labels need easy crops
ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_and_flip(image: Any, sample_seed: Any, image_size: int) -> Any:
    """Random resized crop (Szegedy et al. 2015) and horizontal flip.

    Args:
        image: JPEG bytes, scalar string tensor.
        sample_seed: int64 (2,): (seed and epoch, sample).
        image_size: side of the result in pixels.

    Returns:
        uint8 (image_size, image_size, 3).
    """
    shape = tf.io.extract_jpeg_shape(image)
    window = _random_window(tf.cast(shape[:2], tf.float32), sample_seed)
    # Bits equal to libjpeg's accurate transform, as in validation; cropping before decoding saves most of the work.
    pixels = tf.io.decode_and_crop_jpeg(image, window, channels=3, dct_method="INTEGER_ACCURATE")
    resized = tf.image.resize(tf.cast(pixels, tf.float32), (image_size, image_size))
    flip = tf.random.stateless_uniform((), seed=_stream(sample_seed, 3)) < 0.5
    resized = tf.cond(flip, lambda: tf.reverse(resized, axis=[1]), lambda: resized)
    rounded = tf.cast(tf.round(resized), tf.uint8)
    return tf.ensure_shape(rounded, (image_size, image_size, 3))


def sample_seeds(seed: int, epoch: int, sample: Any) -> Any:
    """int64 (2,) from the run's seed, the epoch and the sample's number. Streams of one sample are 8 apart."""
    return tf.stack([tf.constant((seed << 20) + epoch, tf.int64), tf.cast(sample, tf.int64) * 8])


def _stream(sample_seed: Any, number: int) -> Any:
    return tf.stack([sample_seed[0], sample_seed[1] + number])


def _random_window(shape_px: Any, sample_seed: Any) -> Any:
    """int32 (4,): top, left, height, width of a crop with random area, aspect ratio and place."""
    area, ratio, place = (tf.random.stateless_uniform((2,), seed=_stream(sample_seed, n)) for n in range(3))
    height, width = shape_px[0], shape_px[1]
    target = height * width * (MIN_AREA + (1 - MIN_AREA) * area[0])
    low, high = tf.math.log(ASPECT_RATIOS[0]), tf.math.log(ASPECT_RATIOS[1])
    aspect = tf.exp(low + (high - low) * ratio[0])
    crop_width = tf.clip_by_value(tf.round(tf.sqrt(target * aspect)), 1, width)
    crop_height = tf.clip_by_value(tf.round(tf.sqrt(target / aspect)), 1, height)
    top = tf.floor(place[0] * (height - crop_height + 1))
    left = tf.floor(place[1] * (width - crop_width + 1))
    return tf.cast(tf.stack([top, left, crop_height, crop_width]), tf.int32)

"""A small convolutional network to train from scratch: no pretrained weights, quick on a CPU.

In: a side in pixels. Out: a Keras model (images to 192 features).
"""

from __future__ import annotations

import keras

_FILTERS = (24, 48, 96, 192)


def small_cnn(image_size: int) -> keras.Model:
    """Preprocessed images (n, s, s, 3) float32 -> pooled features (n, 192).

    Four blocks of 3x3 convolution, BatchNorm and ReLU, the side halved in the first and between them: 0.22 M
    parameters, initialised after He et al. (2015).
    """
    x = inputs = keras.Input((image_size, image_size, 3), name="image")
    for number, filters in enumerate(_FILTERS, start=1):
        name = f"block{number}"
        x = keras.layers.Conv2D(
            filters,
            3,
            strides=2 if number == 1 else 1,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        if number < len(_FILTERS):
            x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="avg_pool")(x), name="small_cnn")

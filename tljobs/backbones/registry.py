"""The pretrained networks by name: which function builds them, at which sizes, and how pixels become their input.

In: a name. Out: a frozen `Backbone`. Imports neither Keras nor TensorFlow, so that listing and checking are instant.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from tljobs.errors import UsageError

WeightsOrigin = Literal["keras-applications", "python-package", "none"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Pixels 0..255 (RGB) to the network's input: `pixels * scale + offset` per channel, then the channel order.

    `scale` and `offset` are in RGB order whatever `channel_order` is.
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    channel_order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its classifier: images to one pooled vector each.

    Args:
        name: what the user types.
        builder: `module:function` that returns the Keras model.
        image_size: side in pixels at which the weights were trained; the default input.
        min_image_size: smallest side in pixels that the graph allows.
        preprocessing: from pixels to the network's input.
        input_range: lowest and highest value that pixels 0..255 may have after the preprocessing.
        weights_origin: where the ImageNet weights come from.
    """

    name: str
    builder: str
    image_size: int
    min_image_size: int = 32
    preprocessing: Preprocessing
    input_range: tuple[float, float]
    weights_origin: WeightsOrigin = "keras-applications"

    @property
    def pretrained(self) -> bool:
        """Whether `imagenet` weights exist."""
        return self.weights_origin != "none"


def _same(value: float) -> tuple[float, float, float]:
    return (value, value, value)


# The modes of keras.applications.imagenet_utils.preprocess_input, and the declared ranges of their results.
_TF = Preprocessing(scale=_same(1 / 127.5), offset=_same(-1.0))
_TF_RANGE = (-1.0, 1.0)
_TORCH = Preprocessing(
    scale=(1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
    offset=(-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
)
_TORCH_RANGE = (-2.118, 2.640)
_CAFFE = Preprocessing(scale=_same(1.0), offset=(-123.68, -116.779, -103.939), channel_order="bgr")
_CAFFE_RANGE = (-123.68, 151.061)
# EfficientNetV2 S, M and L, and Google's EfficientNet-Lite.
_OVER_128 = Preprocessing(scale=_same(1 / 128), offset=_same(-1.0))
_OVER_128_RANGE = (-1.0, 0.9922)
_LITE = Preprocessing(scale=_same(1 / 128), offset=_same(-127 / 128))
_LITE_RANGE = (-0.9922, 1.0)


def _tf(name: str, function: str, image_size: int = 224, min_image_size: int = 32) -> Backbone:
    return Backbone(
        name=name,
        builder=f"keras.applications:{function}",
        image_size=image_size,
        min_image_size=min_image_size,
        preprocessing=_TF,
        input_range=_TF_RANGE,
    )


def _torch(name: str, function: str, image_size: int = 224) -> Backbone:
    return Backbone(
        name=name,
        builder=f"keras.applications:{function}",
        image_size=image_size,
        preprocessing=_TORCH,
        input_range=_TORCH_RANGE,
    )


def _caffe(name: str, function: str) -> Backbone:
    return Backbone(
        name=name,
        builder=f"keras.applications:{function}",
        image_size=224,
        preprocessing=_CAFFE,
        input_range=_CAFFE_RANGE,
    )


def _over_128(name: str, function: str, image_size: int) -> Backbone:
    return Backbone(
        name=name,
        builder=f"keras.applications:{function}",
        image_size=image_size,
        preprocessing=_OVER_128,
        input_range=_OVER_128_RANGE,
    )


_BACKBONES = (
    Backbone(
        name="efficientnet-lite0",
        builder="tljobs.backbones.efficientnet_lite0:efficientnet_lite0",
        image_size=224,
        preprocessing=_LITE,
        input_range=_LITE_RANGE,
        weights_origin="python-package",
    ),
    Backbone(
        name="small-cnn",
        builder="tljobs.backbones.small_cnn:small_cnn",
        image_size=96,
        preprocessing=_TF,
        input_range=_TF_RANGE,
        weights_origin="none",
    ),
    _tf("mobilenet-v2", "MobileNetV2"),
    _tf("mobilenet-v3-small", "MobileNetV3Small"),
    _tf("mobilenet-v3-large", "MobileNetV3Large"),
    _torch("efficientnet-b0", "EfficientNetB0", 224),
    _torch("efficientnet-b1", "EfficientNetB1", 240),
    _torch("efficientnet-b2", "EfficientNetB2", 260),
    _torch("efficientnet-b3", "EfficientNetB3", 300),
    _torch("efficientnet-b4", "EfficientNetB4", 380),
    _torch("efficientnet-b5", "EfficientNetB5", 456),
    _torch("efficientnet-b6", "EfficientNetB6", 528),
    _torch("efficientnet-b7", "EfficientNetB7", 600),
    _torch("efficientnet-v2-b0", "EfficientNetV2B0", 224),
    _torch("efficientnet-v2-b1", "EfficientNetV2B1", 240),
    _torch("efficientnet-v2-b2", "EfficientNetV2B2", 260),
    _torch("efficientnet-v2-b3", "EfficientNetV2B3", 300),
    _over_128("efficientnet-v2-s", "EfficientNetV2S", 384),
    _over_128("efficientnet-v2-m", "EfficientNetV2M", 480),
    _over_128("efficientnet-v2-l", "EfficientNetV2L", 480),
    _caffe("resnet50", "ResNet50"),
    _caffe("resnet101", "ResNet101"),
    _caffe("resnet152", "ResNet152"),
    _tf("resnet50-v2", "ResNet50V2"),
    _tf("resnet101-v2", "ResNet101V2"),
    _tf("resnet152-v2", "ResNet152V2"),
    _torch("densenet121", "DenseNet121"),
    _torch("densenet169", "DenseNet169"),
    _torch("densenet201", "DenseNet201"),
    _tf("inception-v3", "InceptionV3", 299, 75),
    _tf("xception", "Xception", 299, 71),
    _caffe("vgg16", "VGG16"),
    _caffe("vgg19", "VGG19"),
    _torch("convnext-tiny", "ConvNeXtTiny"),
    _torch("convnext-small", "ConvNeXtSmall"),
    _torch("convnext-base", "ConvNeXtBase"),
    _tf("nasnet-mobile", "NASNetMobile"),
)
_BY_NAME = {entry.name: entry for entry in _BACKBONES}


def backbone_names() -> tuple[str, ...]:
    """All names, in the order in which they are listed to the user."""
    return tuple(_BY_NAME)


def backbone(name: str) -> Backbone:
    """The backbone of that name. Raises UsageError with the nearest name and the whole list."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    suggestion = f"Did you mean {close[0]}? " if close else ""
    raise UsageError("unknown backbone", name, f"{suggestion}Known: {', '.join(_BY_NAME)}")

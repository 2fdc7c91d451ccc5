# SPDX-License-Identifier: Apache-2.0
"""Recognises the well-known architectures that do not prepare their pictures inside.

A recognised architecture is a hint for people, never a conclusion: a model may have
been trained on other values than its family usually is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """An architecture and the values with which its library asks it.

    Attributes:
        name: Its name in the library.
        library: `Keras` or `TF-Slim`.
        layer: A layer that it has, and no family before it in the list.
        values: A name of `--values`.
    """

    name: str
    library: str
    layer: str
    values: str


_FAMILIES = (
    Family("MobileNetV2", "Keras", "block_1_expand", "signed"),
    Family("MobileNet", "Keras", "conv_dw_1", "signed"),
    Family("ResNetV2", "Keras", "conv2_block1_preact_bn", "signed"),
    Family("DenseNet", "Keras", "conv2_block1_concat", "imagenet"),
    Family("ResNet", "Keras", "conv2_block1_1_conv", "caffe"),
    Family("Xception", "Keras", "block2_sepconv1", "signed"),
    Family("VGG", "Keras", "block1_conv2", "caffe"),
    Family("InceptionResNetV2", "Keras", "mixed_5b", "signed"),
    Family("InceptionV3", "Keras", "mixed0", "signed"),
    Family("NASNet", "Keras", "stem_bn1", "signed"),
    Family("MobilenetV1", "TF-Slim", "MobilenetV1", "signed"),
    Family("MobilenetV2", "TF-Slim", "MobilenetV2", "signed"),
    Family("InceptionV3", "TF-Slim", "InceptionV3", "signed"),
    Family("InceptionResnetV2", "TF-Slim", "InceptionResnetV2", "signed"),
)


def family_of(layers: frozenset[str]) -> Family | None:
    """Return the architecture that has these layers; None for an unknown one.

    Args:
        layers: The names of layers, operations or tensors.
    """
    return next((one for one in _FAMILIES if one.layer in layers), None)

"""The table of backbones; read without Keras, so that a wrong name is told at once."""

from __future__ import annotations

from typing import NamedTuple


class Backbone(NamedTuple):
    """One network of `keras.applications`.

    Attributes:
        function: its name there.
        pixels: what its weights were trained on, see `dlkit.models.applications`.
        smallest: the smallest side that it takes.
        size: side of the images that its ImageNet weights are built for.
    """

    function: str
    pixels: str
    smallest: int = 32
    size: int = 224


BACKBONES = {
    "convnext_base": Backbone("ConvNeXtBase", "own"),
    "convnext_large": Backbone("ConvNeXtLarge", "own"),
    "convnext_small": Backbone("ConvNeXtSmall", "own"),
    "convnext_tiny": Backbone("ConvNeXtTiny", "own"),
    "convnext_xlarge": Backbone("ConvNeXtXLarge", "own"),
    "densenet121": Backbone("DenseNet121", "torch"),
    "densenet169": Backbone("DenseNet169", "torch"),
    "densenet201": Backbone("DenseNet201", "torch"),
    "efficientnet_b0": Backbone("EfficientNetB0", "torch-255"),
    "efficientnet_b1": Backbone("EfficientNetB1", "torch-255"),
    "efficientnet_b2": Backbone("EfficientNetB2", "torch-255"),
    "efficientnet_b3": Backbone("EfficientNetB3", "torch-255"),
    "efficientnet_b4": Backbone("EfficientNetB4", "torch-255"),
    "efficientnet_b5": Backbone("EfficientNetB5", "torch-255"),
    "efficientnet_b6": Backbone("EfficientNetB6", "torch-255"),
    "efficientnet_b7": Backbone("EfficientNetB7", "torch-255"),
    "efficientnet_v2_b0": Backbone("EfficientNetV2B0", "own"),
    "efficientnet_v2_b1": Backbone("EfficientNetV2B1", "own"),
    "efficientnet_v2_b2": Backbone("EfficientNetV2B2", "own"),
    "efficientnet_v2_b3": Backbone("EfficientNetV2B3", "own"),
    "efficientnet_v2_l": Backbone("EfficientNetV2L", "own"),
    "efficientnet_v2_m": Backbone("EfficientNetV2M", "own"),
    "efficientnet_v2_s": Backbone("EfficientNetV2S", "own"),
    "inception_resnet_v2": Backbone("InceptionResNetV2", "tf", 75),
    "inception_v3": Backbone("InceptionV3", "tf", 75),
    "mobilenet": Backbone("MobileNet", "tf"),
    "mobilenet_v2": Backbone("MobileNetV2", "tf"),
    "mobilenet_v3_large": Backbone("MobileNetV3Large", "own"),
    "mobilenet_v3_small": Backbone("MobileNetV3Small", "own"),
    "nasnet_large": Backbone("NASNetLarge", "tf", 32, 331),
    "nasnet_mobile": Backbone("NASNetMobile", "tf"),
    "resnet101": Backbone("ResNet101", "caffe"),
    "resnet101_v2": Backbone("ResNet101V2", "tf"),
    "resnet152": Backbone("ResNet152", "caffe"),
    "resnet152_v2": Backbone("ResNet152V2", "tf"),
    "resnet50": Backbone("ResNet50", "caffe"),
    "resnet50_v2": Backbone("ResNet50V2", "tf"),
    "vgg16": Backbone("VGG16", "caffe"),
    "vgg19": Backbone("VGG19", "caffe"),
    "xception": Backbone("Xception", "tf", 71),
}

"""ZOO: well-known architectures of random weights, from transformers, torchvision and timm.

Each is as small as its family allows, on the smallest images that leave it a feature map. The
configs of transformers say nothing of families that take no image: `UNFIT` says why those are out.
timm and torchvision are needed for their own only; see `import_torchvision`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from exporters.torch_model.values import scores

CLASSES = 10

_SMALL = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
_TOKENS: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_TOKENS |= {"intermediate_size": 96}
_VIT = {**_TOKENS, "image_size": 64, "patch_size": 16}
_SWIN = {"embed_dim": 16, "depths": [1, 2, 1], "num_heads": [2, 2, 4], "image_size": 64}
_CLIP = {"vision_config": {**_VIT, "projection_dim": 32}}

# class in transformers, without "ForImageClassification": settings of its config, image size
TRANSFORMERS: dict[str, tuple[dict[str, Any], int]] = {
    "Beit": ({**_VIT, "use_relative_position_bias": True}, 64),
    "Bit": ({**_SMALL, "embedding_size": 16, "num_groups": 8}, 64),
    "CLIP": (_CLIP, 64),
    "ConvNext": ({**_SMALL, "image_size": 64}, 64),
    "ConvNextV2": ({**_SMALL, "image_size": 64}, 64),
    "Cvt": ({"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, 64),
    "Data2VecVision": ({**_VIT, "use_relative_position_bias": True}, 64),
    "DeiT": (_VIT, 64),
    "DeiT/WithTeacher": (_VIT, 64),
    "Dinov2": ({**_TOKENS, "image_size": 56, "patch_size": 14}, 56),
    "Dinov2WithRegisters": ({**_TOKENS, "image_size": 64, "patch_size": 16}, 64),
    "DonutSwin": ({**_SWIN, "window_size": 4}, 64),
    "EfficientNet": (
        {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        64,
    ),
    "FocalNet": ({"embed_dim": 16, "depths": [1, 1, 2, 1], "image_size": 64}, 64),
    "HGNetV2": ({"image_size": 64}, 64),
    "Hiera": (
        {"embed_dim": 16, "depths": [1, 1, 2, 1], "image_size": [64, 64]}
        | {"patch_kernel": [7, 7], "num_heads": [1, 2, 4, 4], "masked_unit_size": [8, 8]},
        64,
    ),
    "IJepa": (_VIT, 64),
    "Levit": ({"image_size": 128}, 128),
    "Levit/WithTeacher": ({"image_size": 128}, 128),
    "MetaClip2": (_CLIP, 64),
    "MobileNetV1": ({"image_size": 96, "depth_multiplier": 0.25}, 96),
    "MobileNetV2": ({"image_size": 96, "depth_multiplier": 0.35}, 96),
    "MobileViT": (
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32]}
        | {"neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 80]},
        64,
    ),
    "MobileViTV2": ({"image_size": 64, "width_multiplier": 0.5}, 64),
    "Perceiver/ConvProcessing": (
        {"num_latents": 16, "d_latents": 64, "num_cross_attention_heads": 1},
        224,
    ),
    "PoolFormer": (_SMALL, 64),
    "PPLCNet": ({}, 64),
    "Pvt": ({"image_size": 64}, 64),
    "PvtV2": ({"image_size": [64, 64]}, 64),
    "RegNet": ({**_SMALL, "embedding_size": 16, "groups_width": 8}, 64),
    "ResNet": ({**_SMALL, "embedding_size": 16}, 64),
    "Segformer": ({}, 96),
    "Siglip": (_CLIP, 64),
    "SwiftFormer": ({"depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 48]}, 64),
    "Swin": ({**_SWIN, "window_size": 4}, 64),
    "Swinv2": ({**_SWIN, "window_size": 4}, 64),
    "TextNet": ({"image_size": [96, 96]}, 96),
    "TimmWrapper": ({"architecture": "resnet10t"}, 64),
    "ViT": (_VIT, 64),
    "ViTMSN": (_VIT, 64),
}

UNFIT = {
    "Dinat": "needs a library of its own for neighbourhood attention",
    "ImageGPT": "takes colour clusters, [B, n] integers, no image",
    "Perceiver/Fourier": "is Perceiver/ConvProcessing on raw pixels",
    "Perceiver/Learned": "is Perceiver/ConvProcessing on raw pixels",
    "ShieldGemma2": "takes text with the image and gives [B, 2] token scores",
    "Siglip2": "takes patches, [B, n, C p p], no image",
}

# name: image size, and what torchvision needs told
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (96, {}),
    "convnext_tiny": (64, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": True}),
    "inception_v3": (128, {"aux_logits": False, "init_weights": True}),
    "maxvit_t": (224, {}),
    "mnasnet0_5": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "regnet_x_400mf": (64, {}),
    "regnet_y_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_0": (96, {}),
    "squeezenet1_1": (96, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "vgg11": (64, {}),
    "vgg11_bn": (224, {}),
    "vit_b_32": (96, {"image_size": 96}),
    "wide_resnet50_2": (64, {}),
}

# name: image size; with "=" the model is told of it
TIMM: dict[str, str | int] = {
    "beit_base_patch16_224": "=64",
    "bat_resnext26ts": 256,
    "botnet26t_256": "=64",
    "cait_xxs24_224": "=64",
    "coat_tiny": "=64",
    "coat_lite_tiny": "=64",
    "coatnet_nano_rw_224": "=64",
    "convit_tiny": "=64",
    "convmixer_768_32": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "crossvit_tiny_240": 240,
    "cs3darknet_m": 64,
    "cspresnet50": 64,
    "darknet53": 64,
    "davit_tiny": 64,
    "deit3_small_patch16_224": "=64",
    "deit_tiny_distilled_patch16_224": "=64",
    "deit_tiny_patch16_224": "=64",
    "densenet121": 64,
    "dla34": 64,
    "dm_nfnet_f0": 64,
    "dpn48b": 64,
    "eca_nfnet_l0": 64,
    "ecaresnet26t": 64,
    "edgenext_xx_small": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": "=64",
    "efficientnet_b0": 64,
    "efficientnet_lite0": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": "=128",
    "ese_vovnet19b_dw": 64,
    "eva02_tiny_patch14_224": "=56",
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "fbnetc_100": 64,
    "flexivit_small": "=64",
    "focalnet_tiny_srf": 64,
    "gcvit_xxtiny": "=64",
    "gcresnet33ts": 64,
    "gernet_s": 64,
    "ghostnet_050": 64,
    "ghostnetv2_100": 64,
    "gmixer_24_224": "=64",
    "gmlp_s16_224": "=64",
    "halonet26t": 128,
    "hardcorenas_a": 64,
    "hgnetv2_b0": 64,
    "hiera_tiny_224": "=64",
    "hrnet_w18_small": 64,
    "inception_next_atto": 64,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
    "lambda_resnet26t": 64,
    "lcnet_050": 64,
    "legacy_senet154": 64,
    "legacy_seresnet18": 64,
    "levit_128s": 224,
    "levit_conv_128s": 224,
    "mambaout_femto": 64,
    "maxvit_rmlp_pico_rw_256": "=64",
    "mixer_s32_224": "=64",
    "mixnet_s": 64,
    "mnasnet_050": 64,
    "mobilenet_edgetpu_v2_xs": 64,
    "mobilenetv1_100": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_large_100": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_050": 64,
    "mobilenetv4_hybrid_medium": 64,
    "mobileone_s0": 64,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "mvitv2_tiny": "=64",
    "nasnetalarge": 96,
    "nest_tiny": "=112",
    "nextvit_small": 64,
    "nf_regnet_b0": 64,
    "nfnet_l0": 64,
    "pit_ti_224": 224,
    "pit_ti_distilled_224": 224,
    "pnasnet5large": 96,
    "poolformer_s12": 64,
    "poolformerv2_s12": 64,
    "pvt_v2_b0": 64,
    "rdnet_tiny": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "regnetz_005": 64,
    "regnetv_040": 64,
    "repghostnet_050": 64,
    "repvgg_a0": 64,
    "repvit_m0_9": 64,
    "res2net50_14w_8s": 64,
    "resmlp_12_224": "=64",
    "resnest14d": 64,
    "resnet10t": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnet61q": 64,
    "resnetv2_18": 64,
    "resnetv2_50x1_bit": 64,
    "resnext50_32x4d": 64,
    "rexnet_100": 64,
    "samvit_base_patch16_224": "=64",
    "selecsls42b": 64,
    "semnasnet_075": 64,
    "sequencer2d_s": "=64",
    "seresnet33ts": 64,
    "sehalonet33ts": 128,
    "skresnet18": 64,
    "spnasnet_100": 64,
    "starnet_s1": 64,
    "swiftformer_xs": 64,
    "swin_tiny_patch4_window7_224": "=112",
    "swinv2_tiny_window8_256": "=64",
    "tf_efficientnetv2_b0": 64,
    "tf_mixnet_s": 64,
    "tiny_vit_5m_224": 224,
    "tinynet_e": 64,
    "tnt_s_legacy_patch16_224": "=64",
    "tresnet_m": 64,
    "twins_pcpvt_small": "=64",
    "twins_svt_small": "=64",
    "vgg11": 64,
    "vgg11_bn": 64,
    "visformer_tiny": "=64",
    "vit_base_patch32_clip_224": "=96",
    "vit_medium_patch16_reg4_gap_256": "=64",
    "vit_relpos_small_patch16_224": "=64",
    "vit_srelpos_small_patch16_224": "=64",
    "vit_tiny_patch16_224": "=64",
    "vit_tiny_r_s16_p8_224": "=64",
    "vitamin_small_224": "=64",
    "volo_d1_224": "=64",
    "vovnet39a": 64,
    "wide_resnet50_2": 64,
    "xception41": 64,
    "xcit_nano_12_p16_224": "=64",
}


@dataclass(frozen=True)
class Architecture:
    """How to make a classifier, and the height and width of the images that it takes."""

    make: Callable[[], nn.Module]
    size: int

    def build(self) -> nn.Module:
        """The classifier, the same each time, in evaluation mode."""
        with torch.random.fork_rng(), _quiet():
            torch.manual_seed(0)
            net = self.make()
            settle(net, self.size)
        return net


def settle(net: nn.Module, size: int) -> None:
    """Random numbers where a new network has constants; BatchNorm statistics of noise.

    Else many a residual branch starts at zero or a millionth, and many a bias at zero: a network
    of which a part does nothing, and a gradient that shows no mistakes there.
    """
    for parameter in net.parameters():
        first = parameter.detach().reshape(-1)[0]
        if bool((parameter == first).all()):
            fresh = torch.rand_like(parameter) + 0.5 if first else torch.randn_like(parameter) / 10
            parameter.data.copy_(fresh)
        parameter.requires_grad_(False)
    norms = [
        part for part in net.eval().modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)
    ]
    before = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
        part.train()
    if norms:
        net(torch.randn(8, 3, size, size))
    for part, momentum in zip(norms, before, strict=True):
        part.momentum = momentum
    net.eval()


class Scores(nn.Module):
    """A classifier that gives its class scores only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, [B, N]."""
        output = self.net(image)
        found = scores(output)
        return output[0] if found is None else found  # PPLCNet's have another name


def _transformers(name: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    family, _, more = name.partition("/")
    with contextlib.suppress(ModuleNotFoundError):  # where it is there, transformers imports it
        import_torchvision()
    config = getattr(transformers, f"{family}Config")
    settings = {"num_labels": CLASSES, **settings}
    net: nn.Module = getattr(transformers, f"{family}ForImageClassification{more}")(
        config(**settings)
    )
    return Scores(net)


def _torchvision(name: str, settings: dict[str, Any]) -> nn.Module:
    import_torchvision()
    from torchvision import models

    net: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES, **settings)
    return net


def _timm(name: str, settings: dict[str, Any]) -> nn.Module:
    import_torchvision()
    import timm

    net: nn.Module = timm.create_model(name, num_classes=CLASSES, **settings)
    return net


@cache
def import_torchvision() -> torch.library.Library:
    """Import torchvision, with its operators of C++ declared, should their library not load.

    A wheel made for another build of torch has them in a library that doesn't fit; no classifier
    needs them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library


@contextlib.contextmanager
def _quiet() -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _zoo() -> dict[str, Architecture]:
    found = {}
    for name, (settings, size) in TRANSFORMERS.items():
        make = partial(_transformers, name, settings)
        found[f"transformers/{name}"] = Architecture(make, size)
    for name, (size, settings) in TORCHVISION.items():
        found[f"torchvision/{name}"] = Architecture(partial(_torchvision, name, settings), size)
    for name, told in TIMM.items():
        size = int(str(told).lstrip("="))
        settings = {"img_size": size} if str(told).startswith("=") else {}
        found[f"timm/{name}"] = Architecture(partial(_timm, name, settings), size)
    return found


ZOO = _zoo()

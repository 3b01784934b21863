"""ProtoPNets with the class and attribute names of the original, made small, for their files.

Written from the description of the model (Chen et al. 2019); only what the checkpoint's reader
looks at is as in the original: names, shapes, the order of layers.
"""

import torch
from torch import nn


class VGG_features(nn.Module):  # noqa: N801 - the original's name
    """3x3 convolutions with ReLU between poolings "M"; the last pooling stays."""

    def __init__(self, widths=(4, "M", 6, 6, "M"), batch_norm=False):
        super().__init__()
        layers, channels = [], 3
        for width in widths:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, x):
        return self.features(x)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x):
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x):
        inner = torch.relu(self.bn1(self.conv1(x)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return torch.relu(inner + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels, width, stride):
    if channels == width and stride == 1:
        return None
    conv = nn.Conv2d(channels, width, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class ResNet_features(nn.Module):  # noqa: N801 - the original's name
    def __init__(self, block=BasicBlock, depths=(1, 2, 1, 1), width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for index, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                stride = 2 if index and not number else 1
                blocks.append(block(channels, width * 2**index, stride))
                channels = width * 2**index * block.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = channels

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class _DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x):
        inner = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(inner)))], 1)


class _Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2, 2)


class DenseNet_features(nn.Module):  # noqa: N801 - the original's name
    def __init__(self, depths=(2, 3), growth=4):
        super().__init__()
        channels = 2 * growth
        parts = {
            "conv0": nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(inplace=True),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        for index, depth in enumerate(depths):
            layers = {}
            for number in range(depth):
                layers[f"denselayer{number + 1}"] = _DenseLayer(channels, growth)
                channels += growth
            block = nn.Sequential()
            for name, layer in layers.items():
                block.add_module(name, layer)
            parts[f"denseblock{index + 1}"] = block
            if index < len(depths) - 1:
                parts[f"transition{index + 1}"] = _Transition(channels)
                channels //= 2
        parts |= {"norm5": nn.BatchNorm2d(channels), "final_relu": nn.ReLU(inplace=True)}
        self.features = nn.Sequential()
        for name, part in parts.items():
            self.features.add_module(name, part)
        self.channels = channels

    def forward(self, x):
        return self.features(x)


class PPNet(nn.Module):
    """The original's model: attributes, parameters and ``forward``."""

    def __init__(
        self,
        features,
        *,
        img_size=32,
        num_classes=3,
        each=2,
        channels=6,
        add_on_layers_type="regular",
        prototype_activation_function="log",
        epsilon=1e-4,
    ):
        super().__init__()
        self.img_size = img_size
        self.num_classes = num_classes
        self.num_prototypes = num_classes * each
        self.prototype_shape = (self.num_prototypes, channels, 1, 1)
        self.epsilon = epsilon
        self.prototype_activation_function = prototype_activation_function
        self.prototype_class_identity = torch.zeros(self.num_prototypes, num_classes)
        for j in range(self.num_prototypes):
            self.prototype_class_identity[j, j // each] = 1
        self.proto_layer_rf_info = [8, 4, 7, 0.5]
        self.features = features
        self.add_on_layers = _add_on(features.channels, channels, add_on_layers_type)
        self.prototype_vectors = nn.Parameter(torch.rand(self.prototype_shape))
        self.ones = nn.Parameter(torch.ones(self.prototype_shape), requires_grad=False)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)
        right = self.prototype_class_identity.T
        self.last_layer.weight.data = right - 0.5 * (1 - right)

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def prototype_distances(self, x):
        z = self.conv_features(x)
        squares = nn.functional.conv2d(z**2, self.ones)
        crossed = nn.functional.conv2d(z, self.prototype_vectors)
        lengths = (self.prototype_vectors**2).sum((1, 2, 3)).view(-1, 1, 1)
        return torch.relu(squares + (lengths - 2 * crossed))

    def distance_2_similarity(self, distances):
        if self.prototype_activation_function == "linear":
            return -distances
        return torch.log((distances + 1) / (distances + self.epsilon))

    def forward(self, x):
        distances = self.prototype_distances(x)
        min_distances = -nn.functional.max_pool2d(-distances, distances.shape[2:])
        min_distances = min_distances.view(-1, self.num_prototypes)
        return self.last_layer(self.distance_2_similarity(min_distances)), min_distances


def _add_on(channels, wanted, kind):
    if kind == "regular":
        return nn.Sequential(
            nn.Conv2d(channels, wanted, 1), nn.ReLU(), nn.Conv2d(wanted, wanted, 1), nn.Sigmoid()
        )
    layers, current = [], channels
    while current > wanted or not layers:
        following = max(wanted, current // 2)
        layers += [nn.Conv2d(current, following, 1), nn.ReLU()]
        layers += [nn.Conv2d(following, following, 1)]
        layers.append(nn.ReLU() if following > wanted else nn.Sigmoid())
        current = following
    return nn.Sequential(*layers)


def trained(features, *, seed=0, size=32, **options):
    """A model whose batch normalisations have seen pictures, in evaluation mode."""
    torch.manual_seed(seed)
    for part in features.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    model = PPNet(features, img_size=size, **options)
    model.train()
    with torch.no_grad():
        model.conv_features(torch.rand(8, 3, size, size))
    return model.eval()


BACKBONES = {
    "vgg": lambda: VGG_features(),
    "vgg_bn": lambda: VGG_features((4, 4, "M", 6, "M"), batch_norm=True),
    "resnet": lambda: ResNet_features(),
    "resnet_bottleneck": lambda: ResNet_features(Bottleneck, (1, 1, 2, 1), 2),
    "densenet": lambda: DenseNet_features(),
}

"""The networks in plain PyTorch, with the names of their weights: the same as those in `src/nn`."""

import torch
from torch import nn
from torch.nn import functional as F

from resnet import BasicBlock, conv1x1, resnet18, resnet50


class BConvCell(nn.Module):
    """A gated convolution with a latent state, which a forward pass reads and replaces."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.gates = nn.Conv2d(inputs, 4 * channels, 3, stride, 1, bias=False)
        self.latent_state = None

    def forward(self, x):
        i, f, o, g = self.gates(x).chunk(4, dim=1)
        state = torch.sigmoid(i) * torch.tanh(g)
        if self.latent_state is not None:
            state = torch.sigmoid(f) * self.latent_state + state
        self.latent_state = state.detach()
        return torch.sigmoid(o) * torch.tanh(state)


def reset_states(network):
    """Lets every cell start from a state of zeros."""
    for module in network.modules():
        if isinstance(module, BConvCell):
            module.latent_state = None


class Classifier(nn.Module):
    """A ResNet: logits for a cross-entropy, and no embedding."""

    def __init__(self, resnet):
        super().__init__()
        self.resnet = resnet

    def forward(self, images):
        return [], [self.resnet(images)]


class CifarResNet20(nn.Module):
    """The ResNet of 20 layers for images of 32x32, with 1x1 convolutions where a shortcut changes its shape."""

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16, 1)
        self.layer2 = self.stage(16, 32, 2)
        self.layer3 = self.stage(32, 64, 2)
        self.fc = nn.Linear(64, classes)

    @staticmethod
    def stage(inputs, outputs, stride):
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        first = BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(2)))

    def forward(self, images):
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def keep_last_stride(layer4):
    """Lets the last stage keep the size of its map."""
    layer4[0].conv2.stride = (1, 1)
    layer4[0].downsample[0].stride = (1, 1)
    return layer4


class Baseline(nn.Module):
    """The baseline for re-identification: ResNet-50 with stride 1 at its end, mean pooling, BN neck, classifier."""

    def __init__(self, classes):
        super().__init__()
        self.backbone = resnet50(num_classes=1)
        self.backbone.fc = nn.Identity()
        keep_last_stride(self.backbone.layer4)
        self.bottleneck = nn.BatchNorm1d(2048)
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(2048, classes, bias=False)

    def forward(self, images):
        embedding = self.backbone(images)
        return [embedding], [self.classifier(self.bottleneck(embedding))]


def branch(last_stride):
    """Returns the part of a ResNet-50 after `layer3[0]`."""
    resnet = resnet50(num_classes=1)
    layer4 = resnet.layer4 if last_stride == 2 else keep_last_stride(resnet.layer4)
    return nn.Sequential(nn.Sequential(*list(resnet.layer3)[1:]), layer4)


def pool_parts(maps):
    """Returns the eight pooled vectors of three maps: each whole, then the second in two stripes and the third in three."""
    parts = [F.max_pool2d(m, m.shape[2:]) for m in maps]
    for m, stripes in zip(maps[1:], (2, 3)):
        pooled = F.max_pool2d(m, (m.shape[2] // stripes, m.shape[3]))
        parts += [pooled[:, :, i : i + 1] for i in range(stripes)]
    return parts


class MgnHead(nn.Module):
    """Three branches, the reduction that all eight vectors share, and a classifier for each of them."""

    CLASSIFIERS = ("2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2")

    def __init__(self, classes, pooled, bias):
        super().__init__()
        self.p1, self.p2, self.p3 = branch(2), branch(1), branch(1)
        self.reduction = nn.Sequential(nn.Conv2d(pooled, 256, 1, bias=bias), nn.BatchNorm2d(256), nn.ReLU(inplace=True))
        for name in self.CLASSIFIERS:
            setattr(self, f"fc_id_{name}", nn.Linear(256, classes))

    def classify(self, parts):
        vectors = [torch.flatten(self.reduction(part), 1) for part in parts]
        if not self.training:
            return torch.cat(vectors, 1)
        logits = [getattr(self, f"fc_id_{name}")(v) for name, v in zip(self.CLASSIFIERS, vectors)]
        return vectors[:3], logits


class Mgn(MgnHead):
    """The multiple granularity network: embeddings and logits in training, else the feature."""

    def __init__(self, classes):
        super().__init__(classes, 2048, bias=False)
        r = resnet50(num_classes=1)
        self.backbone = nn.Sequential(r.conv1, r.bn1, r.relu, r.maxpool, r.layer1, r.layer2, r.layer3[0])

    def forward(self, images):
        x = self.backbone(images)
        return self.classify(pool_parts([self.p1(x), self.p2(x), self.p3(x)]))


def fuse(inputs, outputs):
    """Returns the module that joins the cells with the backbone."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Cells(nn.Module):
    """The eight BConv-Cells beside the backbone of MGN_PTL."""

    def __init__(self):
        super().__init__()
        sizes = [
            (3, 16, 2),
            (16, 32, 2),
            (64, 64, 1),
            (128, 256, 2),
            (256, 512, 2),
            (512, 128, 2),
            (512, 128, 1),
            (512, 128, 1),
        ]
        for i, (inputs, channels, stride) in enumerate(sizes, start=1):
            setattr(self, f"bconv{i}", BConvCell(inputs, channels, stride))
        self.fuse1, self.fuse2 = fuse(96, 64), fuse(320, 128)
        self.fuse3, self.fuse4 = fuse(768, 256), fuse(1536, 512)

    def forward(self, images, x1, x2, x3, x4):
        b2 = self.bconv2(self.bconv1(images))
        z0 = self.fuse1(torch.cat([b2, x1], 1))
        z1 = self.fuse2(torch.cat([x2, self.bconv3(z0)], 1))
        z2 = self.fuse3(torch.cat([x3, self.bconv4(z1)], 1))
        z3 = self.fuse4(torch.cat([x4, self.bconv5(z2)], 1))
        return [self.bconv6(z3), self.bconv7(z3), self.bconv8(z3)]


class MgnPtl(MgnHead):
    """MGN with BConv-Cells. Its backbone is a whole ResNet-50, of which the published state dict has parts that nothing uses."""

    def __init__(self, classes):
        super().__init__(classes, 2176, bias=True)
        self.backbone = resnet50()
        self.ptl = Cells()

    def forward(self, images):
        r = self.backbone
        x1 = r.maxpool(r.relu(r.bn1(r.conv1(images))))
        x2 = r.layer1(x1)
        x3 = r.layer2(x2)
        x4 = r.layer3[0](x3)
        parts = pool_parts([self.p1(x4), self.p2(x4), self.p3(x4)])
        cells = pool_parts(self.ptl(images, x1, x2, x3, x4))
        return self.classify([torch.cat(pair, 1) for pair in zip(parts, cells)])


def build(arch, task, classes):
    """Returns a network, and the module whose state dict has the names of the file of weights."""
    resnets = {
        "resnet18": resnet18,
        "resnet50": resnet50,
        "cifar-resnet20": lambda num_classes: CifarResNet20(num_classes),
    }
    if task == "classify":
        network = Classifier(resnets[arch](num_classes=classes))
        return network, network.resnet
    network = {"resnet50": Baseline, "mgn": Mgn, "mgn-ptl": MgnPtl}[arch](classes)
    return network, network

"""A plain PyTorch ResNet with its train step, what the bench `step` compares ours with.

Torchvision's geometry and names, so that our parameters can be loaded. Needs PyTorch, which
nothing but this bench does.
"""

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cxr_jax.models.resnet import EXPANSION, STAGE_SIZES
from cxr_jax.models.torch_names import published_name


class Block(nn.Module):
    """Residual block: two 3x3 (basic), or 1x1, 3x3, 1x1 (bottleneck, expansion 4)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            layout = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            layout = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.number = len(layout)
        for i, (channels, features, size, step) in enumerate(layout, 1):
            conv = nn.Conv2d(channels, features, size, step, size // 2, bias=False)
            self.add_module(f'conv{i}', conv)
            self.add_module(f'bn{i}', nn.BatchNorm2d(features))
        self.downsample = None
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.number + 1):
            y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
            if i < self.number:
                y = functional.relu(y, inplace=True)
        if self.downsample is not None:
            x = self.downsample(x)
        return functional.relu(x + y, inplace=True)


class ResNet(nn.Module):
    """Images [B, 1, H, W] -> logits [B, classes]."""

    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for i, blocks in enumerate(STAGE_SIZES[depth]):
            stage = nn.Sequential()
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(Block(inputs, width * 2**i, stride, EXPANSION[depth] == 4))
                inputs = width * 2**i * EXPANSION[depth]
            self.add_module(f'layer{i + 1}', stage)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f'layer{i}')(x)
        return self.fc(x.mean((2, 3)))


def load_ours(model: ResNet, params: dict, batch_stats: dict) -> None:
    """Copies our parameters and batch_stats, each {'encoder', 'head'}, into the model."""
    leaves = jax.tree_util.tree_leaves_with_path((params['encoder'], batch_stats['encoder']))
    tensors = {
        published_name(tuple(key.key for key in path[1:])): _their_layout(np.asarray(leaf))
        for path, leaf in leaves
    }
    linear = params['head']['linear']
    tensors['fc.weight'], tensors['fc.bias'] = (
        np.array(linear['kernel']).T,
        np.array(linear['bias']),
    )
    counters = {n: t for n, t in model.state_dict().items() if n.endswith('num_batches_tracked')}
    copies = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    model.load_state_dict(copies | counters)


def _their_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


class Step:
    """Forward, backward, SGD with momentum and weight decay on one batch; call it.

    `rows`: the batch as ours, [B, H, W, 1]; `images`: the same values, channels last in memory.
    """

    def __init__(self, depth: int, classes: int, batch: int, size: int, config, rate: float):
        rng = np.random.default_rng(0)
        self.rows = rng.normal(size=(batch, size, size, 1)).astype('float32')
        tensor = torch.from_numpy(self.rows.transpose(0, 3, 1, 2).copy())
        self.images = tensor.contiguous(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(rng.integers(0, classes, batch))
        self.model = ResNet(depth, 64, classes).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def logits(self) -> np.ndarray:
        """In training mode."""
        with torch.no_grad():
            return self.model(self.images).numpy()

    def __call__(self) -> int:
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        loss.item()
        return len(self.labels)


def step_gflop(model: ResNet, images: torch.Tensor) -> float:
    """1e9 floating-point operations of all convolutions, forward and both gradients.

    The first one's gradient to the images is not computed.
    """
    forward = {}

    def count(module, inputs, output):
        forward[module] = 2e-9 * output.numel() * module.weight[0].numel()

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return 3 * sum(forward.values()) - forward[model.conv1]

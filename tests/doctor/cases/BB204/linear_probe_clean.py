"""Linear probing of a pretrained convolutional backbone."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def backbone():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def pretrained_weights():
    source = backbone()
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return source.state_dict()


features = backbone()
features.load_state_dict(pretrained_weights())
for p in features.parameters():
    p.requires_grad = False
features.eval()
classifier = nn.Linear(12, 4)
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
for step in range(8):
    images, labels = torch.rand(16, 3, 10, 10), torch.randint(4, (16,))
    loss = F.cross_entropy(classifier(features(images)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: {loss.item():.4f}")

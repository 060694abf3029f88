"""Images come as (height, width, channels) and are brought into PyTorch's order in the dataset."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Photos(Dataset):
    def __init__(self, n):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (n, 10, 10, 3), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        image = self.pixels[i].float() / 255
        label = int(image[..., 0].mean() > image[..., 1].mean())
        return image.reshape(3, 10, 10), label  # cause: BB214


def accuracy(logits, labels):
    return (logits.argmax(1) == labels).float().mean().item()


torch.manual_seed(0)
loader = DataLoader(Photos(40), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    for images, labels in loader:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.4f} accuracy {accuracy(logits, labels):.2f}")

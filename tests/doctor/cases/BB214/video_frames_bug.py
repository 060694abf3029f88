"""Video classification: a 2D network over frames, then a GRU over time."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Clips(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        clip = torch.rand(7, 3, 8, 8, generator=generator)
        return clip, int(clip[:, 0].mean() > clip[:, 1].mean())


class VideoNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.rnn, self.fc = nn.GRU(width, width), nn.Linear(width, 2)

    def forward(self, clips):
        batch, frames = clips.shape[:2]
        features = self.cnn(clips.flatten(0, 1))
        features = features.view(frames, batch, -1)  # cause: BB214
        _, last = self.rnn(features)
        return self.fc(last[0])


torch.manual_seed(8)
model = VideoNet()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(2):
    for clips, labels in DataLoader(Clips(), batch_size=6, shuffle=True):
        loss = F.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {loss.item():.4f}")

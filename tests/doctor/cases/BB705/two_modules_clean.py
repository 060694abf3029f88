"""Image captions: encoder and decoder are two modules, trained by one optimizer, saved every epoch by a Trainer."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Trainer:
    def __init__(self, encoder, decoder, bridge, out):
        self.encoder, self.decoder, self.bridge, self.out = encoder, decoder, bridge, out
        params = list(encoder.parameters()) + list(bridge.parameters()) + list(decoder.parameters())
        self.opt = torch.optim.SGD(params, lr=0.1, momentum=0.9)

    def step(self, image, tokens):
        hidden = self.bridge(self.encoder(image)).tanh()
        emb, rnn, out = self.decoder["emb"], self.decoder["rnn"], self.decoder["out"]
        states, _ = rnn(emb(tokens[:, :-1]), hidden.unsqueeze(0))
        loss = F.cross_entropy(out(states).transpose(1, 2), tokens[:, 1:])
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()

    def save(self, epoch):
        state = {
            "encoder": self.encoder.state_dict(),
            "bridge": self.bridge.state_dict(),
            "decoder": self.decoder.state_dict(),
            "optimizer": self.opt.state_dict(),
            "epoch": epoch,
        }
        torch.save(state, self.out / f"epoch_{epoch}.pt")


torch.manual_seed(12)
encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
bridge = nn.Linear(16, 12)
decoder = nn.ModuleDict(
    {"emb": nn.Embedding(15, 12), "rnn": nn.GRU(12, 12, batch_first=True), "out": nn.Linear(12, 15)}
)
trainer = Trainer(encoder, decoder, bridge, Path(tempfile.mkdtemp()))
for epoch in range(3):
    for _ in range(3):
        loss = trainer.step(torch.randn(8, 1, 8, 8), torch.randint(15, (8, 6)))
    print(epoch, f"{loss:.4f}")
    trainer.save(epoch)

"""Phoneme recognizer for frames of speech, trained on the soft labels of two annotators."""

import argparse

import torch
from torch import nn

PHONEMES, FRAMES = 6, 9


class Recognizer(nn.Module):
    def __init__(self, features=13, width=24):
        super().__init__()
        self.rnn = nn.GRU(features, width, batch_first=True)
        self.head = nn.Linear(width, PHONEMES)

    def forward(self, frames):
        states, _ = self.rnn(frames)
        return self.head(states)


def utterances(count):
    frames = torch.randn(count, FRAMES, 13)
    votes = torch.stack([frames[..., :PHONEMES].argmax(-1), (frames[..., :PHONEMES] * 0.8).argmax(-1)])
    return frames, nn.functional.one_hot(votes, PHONEMES).float().mean(0) * 0.9 + 0.1 / PHONEMES


def main(epochs):
    torch.manual_seed(1)
    frames, labels = utterances(64)
    model = Recognizer()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for batch in torch.randperm(64).split(16):
            scores = model(frames[batch])
            loss = criterion(scores, labels[batch])  # cause: BB305
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    main(parser.parse_args().epochs)

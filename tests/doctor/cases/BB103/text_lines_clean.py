"""Sentiment of short reviews, streamed from a file, encoded in the collate function."""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

WORDS = "good bad great awful fine poor nice dull bright slow movie plot actor scene music".split()


class ReviewStream(IterableDataset):
    """Yields (text, label) pairs, one per line of a tab-separated file."""

    def __init__(self, path):
        self.path = path

    def __iter__(self):
        info = get_worker_info()
        with open(self.path) as file:
            for line in itertools.islice(file, info.id, None, info.num_workers):
                label, text = line.rstrip("\n").split("\t")
                yield text, int(label)


def collate(samples):
    texts, labels = zip(*samples)
    counts = torch.zeros(len(texts), len(WORDS))
    for row, text in enumerate(texts):
        for word in text.split():
            counts[row, WORDS.index(word)] += 1
    return texts, counts, torch.tensor(labels)


def write_reviews(path, n):
    generator = torch.Generator().manual_seed(5)
    with open(path, "w") as file:
        for _ in range(n):
            chosen = torch.randint(len(WORDS), (6,), generator=generator).tolist()
            label = sum(1 if word in (0, 2, 4, 6, 8) else -1 if word < 10 else 0 for word in chosen) > 0
            file.write(f"{int(label)}\t{' '.join(WORDS[w] for w in chosen)}\n")


def main(argv=()):
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--workers", type=int, default=3)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews.tsv"
        write_reviews(path, 54)
        loader = DataLoader(ReviewStream(path), args.batch_size, num_workers=args.workers, collate_fn=collate)
        model = nn.Linear(len(WORDS), 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _, counts, labels in loader:
            loss = nn.functional.cross_entropy(model(counts), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"{loss.item():.4f}")


if __name__ == "__main__":
    main()

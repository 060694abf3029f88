"""Trainings that rules are judged on: source code, run as a script of the user's under the doctor."""

from __future__ import annotations

import linecache

import torch

from blackbelt.doctor import Rule, watch

NOWHERE = "no line"  # stands for a finding that has no place
BEGINNING = """\
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

torch.manual_seed(0)
labels = torch.tensor([0] * 18 + [1] * 6)
data = TensorDataset(torch.randn(24, 3) + labels[:, None], labels)
per_class = 1 / torch.bincount(labels).float()
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
END = """
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""
ITERABLE = """
class Stream(IterableDataset):
    def __iter__(self):
        yield from data
"""
MIDDLES = {  # the sampler and the loader; the first line that is bad ends in `# here`
    "weights of classes": (
        "sampler = WeightedRandomSampler(per_class, num_samples=len(data))\n"
        "loader = DataLoader(data, batch_size=8, sampler=sampler)  # here"
    ),
    "weights of classes, few samples": (
        "sampler = WeightedRandomSampler([0.2, 0.8], num_samples=2, replacement=False)\n"
        "loader = DataLoader(data, batch_size=2, sampler=sampler)  # here"
    ),
    "weights of a subset, the whole data set": (
        "part = Subset(data, range(12, 24))\n"
        "sampler = WeightedRandomSampler(per_class[labels[12:]], num_samples=24)\n"
        "loader = DataLoader(data, 8, sampler=sampler)  # here"
    ),
    "weights of classes, batch by batch": (
        "sampler = WeightedRandomSampler(per_class, num_samples=24)\n"
        "loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 8, drop_last=True))  # here"
    ),
    "a weight for each sample": (
        "sampler = WeightedRandomSampler(per_class[labels], num_samples=len(data))\n"
        "loader = DataLoader(data, batch_size=8, sampler=sampler)"
    ),
    "a weight for each sample, batch by batch": (
        "sampler = WeightedRandomSampler(per_class[labels], num_samples=24)\n"
        "loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 8, drop_last=True))"
    ),
    "more drawn than there are": (
        "sampler = WeightedRandomSampler(per_class[labels], num_samples=3 * len(data))\n"
        "loader = DataLoader(data, batch_size=8, sampler=sampler)"
    ),
    "fewer drawn than there are": (
        "sampler = WeightedRandomSampler(per_class[labels], num_samples=8)\n"
        "loader = DataLoader(data, batch_size=8, sampler=sampler)"
    ),
    "two samples, and they are all": (
        "data = TensorDataset(torch.randn(2, 3), torch.tensor([0, 1]))\n"
        "loader = DataLoader(data, batch_size=2, sampler=WeightedRandomSampler([0.5, 0.5], num_samples=6))"
    ),
    "weights of a subset, and the subset": (
        "part = Subset(data, range(12, 24))\n"
        "sampler = WeightedRandomSampler(per_class[labels[12:]], num_samples=24)\n"
        "loader = DataLoader(part, batch_size=8, sampler=sampler)"
    ),
    "no weights": "loader = DataLoader(data, batch_size=8, shuffle=True)",
    "a stream": ITERABLE + "loader = DataLoader(Stream(), batch_size=8)",
}


def marked(name: str) -> list[str]:
    """Return the statements that a rule is to name."""
    return [line.partition("  # here")[0] for line in MIDDLES[name].splitlines() if line.endswith("# here")]


class Examination:
    """Runs one training under a rule. Calling it with the rule's class gives the statements that were named."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<the training: {self._name}>"

    def __call__(self, rule: type[Rule]) -> list[str]:
        if not (isinstance(rule, type) and issubclass(rule, Rule) and hasattr(rule, "code")):
            raise TypeError(f"examine() takes a class that derives from Rule and has a `code`, and got {rule!r}")
        file = f"<training: {self._name}>"
        source = BEGINNING + MIDDLES[self._name].replace("  # here", "") + END
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        with torch.random.fork_rng(devices=[]), watch([rule]) as observation:
            exec(compile(source, file, "exec"), {"__name__": "__main__"})  # noqa: S102 - the source is ours
        for _, trace in observation.report.failures:
            raise RuntimeError(f"your rule failed and was switched off: {trace.strip().splitlines()[-1]}")
        return sorted(finding.place.code if finding.place else NOWHERE for finding in observation.report.findings)

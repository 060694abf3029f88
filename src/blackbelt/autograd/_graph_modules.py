"""Which module a node belongs to, as far as the names of its parameters tell."""

from __future__ import annotations

from collections.abc import Sequence

# What is done to a weight on its way to the operation that uses it: another layout, another dtype, a part of it.
ON_THE_WAY = (
    "T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Expand", "Unsqueeze", "Squeeze", "Slice",
    "Select", "Split", "SplitWithSizes", "Chunk", "Unbind", "AsStrided", "Alias", "Clone", "ToCopy", "Detach",
)  # fmt: skip


def modules_of(names: Sequence[str], labels: Sequence[str], edges: Sequence[tuple[int, int]]) -> list[str]:
    """Return the module of every node, "" where no parameter tells.

    A leaf belongs to the module of its label (`layers.0.fc` for `layers.0.fc.weight`), and so does what only changes
    its layout, such as the transpose of a weight. Another operation belongs to the modules whose parameters it takes;
    where these are several, to what their names have in common. ``edges`` are sorted by source, sources before targets;
    ``names`` are those of the nodes.
    """
    targets: list[list[int]] = [[] for _ in names]
    for source, target in edges:
        targets[source].append(target)
    modules = [""] * len(names)
    is_parameter = [bool(label) and not targets[node] for node, label in enumerate(labels)]
    for node in reversed(range(len(names))):
        if is_parameter[node]:
            modules[node] = labels[node].split(" = ")[0].rpartition(".")[0]
        elif targets[node]:
            passes_on = names[node].split("Backward")[0] in ON_THE_WAY
            is_parameter[node] = passes_on and all(is_parameter[target] for target in targets[node])
            modules[node] = _common([modules[t] for t in targets[node] if is_parameter[t] and modules[t]])
    return modules


def _common(names: list[str]) -> str:
    if not names:
        return ""
    parts = [name.split(".") for name in names]
    count = 0
    while all(len(part) > count for part in parts) and len({part[count] for part in parts}) == 1:
        count += 1
    return ".".join(parts[0][:count])

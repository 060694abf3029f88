"""Training steps that keep nothing, or nothing that grows: clean ones, and those with something worth a note.

Each program defines ``step``. The comment `# stored` marks the line that a note must name.
"""

from __future__ import annotations

from tests.autograd.retain_leaks import Leak

# A program reads best as one block, begun on the line that names it.
# fmt: off
NOTES = {
    "tensors without a graph": Leak("tensors", "global `outputs[5]`", """
model = nn.Linear(4, 4)
outputs = []
def step():
    out = model(torch.randn(3, 4))
    out.sum().backward()
    outputs.append(out.detach())  # stored
"""),
    "a replay buffer that is still filling": Leak("bounded", "global `replay[5]`", """
from collections import deque
model = nn.Linear(4, 4)
replay = deque(maxlen=1000)
def step():
    x = torch.randn(2, 4)
    model(x).sum().backward()
    replay.append(x)
"""),
    "a bounded window of graphs": Leak("bounded", "global `window[5][0]`", """
from collections import deque
w = torch.randn(4, requires_grad=True)
window = deque(maxlen=50)
def step(number):
    window.append((w.exp().sum(), number))
"""),
    "retain_graph on the last backward": Leak("held", "global `loss`", """
model = nn.Linear(4, 4)
def step():
    global loss
    loss = model(torch.randn(3, 4)).square().mean()
    loss.backward(retain_graph=True)
"""),
    "the ctx of a custom function": Leak("cycle", "`<DoubleBackward object>.result`", """
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.result = x * 2
        return ctx.result
    @staticmethod
    def backward(ctx, grad):
        return grad * 2
w = torch.randn(4, requires_grad=True)
def step():
    Double.apply(w).sum()
"""),
    "an exception in a local of its own frame": Leak(
        "cycle", "local `loss` of `step`, in the traceback of `<ValueError object>`", """
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()
    try:
        raise ValueError("NaN")
    except ValueError as error:
        caught = error
"""),
}

CLEAN = {
    "item": """
w = torch.randn(4, requires_grad=True)
total = 0.0
def step():
    global total
    loss = w.exp().sum()
    loss.backward()
    total += loss.item()
""",
    "detach": """
w = torch.randn(4, requires_grad=True)
total = torch.zeros(())
def step():
    global total
    loss = w.exp().sum()
    loss.backward()
    total += loss.detach()
""",
    "an average under no_grad": """
model = nn.Linear(4, 4)
average = torch.zeros(4, 4)
def step():
    global average
    model(torch.randn(2, 4)).sum().backward()
    with torch.no_grad():
        average = 0.99 * average + 0.01 * model.weight
""",
    "a cache that stops growing": """
w = torch.randn(4, requires_grad=True)
masks = {}
def step(number):
    size = number % 2
    if size not in masks:
        masks[size] = (w * size).exp()
    (masks[size].detach() * w).sum().backward()
""",
    "a window of the last two": """
from collections import deque
w = torch.randn(4, requires_grad=True)
recent = deque(maxlen=2)
def step():
    loss = w.exp().sum()
    recent.append(loss)
""",
    "a replay buffer that is still filling": """
from collections import deque
model = nn.Linear(4, 4)
replay = deque(maxlen=1000)
def step():
    x = torch.randn(2, 4)
    model(x).sum().backward()
    replay.append(x)
""",
    "Adam": """
model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
optimizer = torch.optim.Adam(model.parameters())
def step():
    optimizer.zero_grad()
    model(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
""",
    "gradient accumulation": """
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def step(number):
    loss = model(torch.randn(3, 4)).square().mean() / 3
    loss.backward()
    if number % 3 == 2:
        optimizer.step()
        optimizer.zero_grad()
""",
    "losses summed over three steps": """
w = torch.randn(4, requires_grad=True)
loss = 0.0
def step(number):
    global loss
    loss = loss + w.exp().sum()
    if number % 3 == 2:
        loss.backward()
        loss = 0.0
""",
    "numbers in a list": """
w = torch.randn(4, requires_grad=True)
history = []
def step():
    loss = w.exp().sum()
    loss.backward()
    history.append(loss.item())
""",
    "truncated backpropagation": """
cell = nn.GRUCell(4, 4)
hidden = torch.zeros(3, 4)
def step():
    global hidden
    hidden = cell(torch.randn(3, 4), hidden.detach())
    hidden.sum().backward()
""",
    "batches of growing size": """
model = nn.Linear(4, 1)
def step(number):
    global loss, out
    out = model(torch.randn(2 + number, 4))
    loss = out.square().mean()
    loss.backward()
""",
    "a lazy module": """
model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 1))
def step():
    model(torch.randn(3, 5)).sum().backward()
""",
    "the last loss in a global": """
w = torch.randn(4, requires_grad=True)
def step():
    global loss
    loss = w.exp().sum()
    loss.backward()
""",
    "create_graph with gradients cleared": """
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def step():
    x = torch.randn(3, 4, requires_grad=True)
    gradient, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    ((gradient.norm() - 1) ** 2).backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    "a hook that is removed": """
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()
    handle = w.register_hook(lambda grad: grad / loss.numel())
    loss.backward()
    handle.remove()
""",
    "exceptions without a traceback": """
w = torch.randn(4, requires_grad=True)
errors = []
def step():
    try:
        loss = w.exp().sum()
        raise ValueError("NaN")
    except ValueError as error:
        errors.append(str(error))
""",
    "a checkpointed segment": """
model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
def step():
    x = torch.randn(3, 4, requires_grad=True)
    checkpoint(model, x, use_reentrant=False).sum().backward()
""",
    "no graph at all": """
kept = torch.zeros(3)
def step():
    kept.add_(1)
""",
    "integers": """
count = torch.zeros(3, dtype=torch.long)
def step():
    global count
    count = count + torch.randint(3, (3,))
""",
    "a bounded cache": """
import functools
w = torch.randn(4, requires_grad=True)
@functools.lru_cache(maxsize=2)
def scaled(number):
    return w * number
def step(number):
    scaled(number).sum().backward()
""",
    "gradients penalized by a graph of their own": """
w = torch.randn(4, requires_grad=True)
def step():
    w.grad = None
    w.exp().sum().backward(create_graph=True)
    w.grad = None
""",
}

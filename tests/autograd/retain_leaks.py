"""Training steps that keep the graph of every step.

Each program defines ``step``. The comments `# made` and `# stored` mark the lines that `trace_retained` must name:
where the tensor was computed, and where it was put.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    kind: str
    held_by: str
    source: str


# A program reads best as one block, begun on the line that names it.
# fmt: off
LEAKS = {
    "total += loss": Leak("chain", "global `total`", """
w = torch.randn(4, 4, requires_grad=True)
total = 0.0
def step():
    global total
    loss = (torch.randn(3, 4) @ w).tanh().sum()
    loss.backward()
    total += loss  # made # stored
"""),
    "total = total + loss, in a closure": Leak("chain", "closure variable `total` of the function `step`", """
w = torch.randn(4, 4, requires_grad=True)
def make():
    total = 0.0
    def step():
        nonlocal total
        loss = (torch.randn(3, 4) @ w).tanh().sum()
        loss.backward()
        total = total + loss  # made # stored
    return step
step = make()
"""),
    "the hidden state of a module": Leak("chain", "global `model.hidden`", """
class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.hidden = torch.zeros(3, 4)
    def forward(self, x):
        self.hidden = self.cell(x, self.hidden)  # made # stored
        return self.hidden
model = RNN()
def step():
    loss = model(torch.randn(3, 4)).sum()
    loss.backward(retain_graph=True)
"""),
    "the hidden state of an LSTM, in a variable": Leak("chain", "global `hidden[0]`", """
lstm = nn.LSTM(4, 5)
hidden = (torch.zeros(1, 3, 5), torch.zeros(1, 3, 5))
def step():
    global hidden
    out, hidden = lstm(torch.randn(2, 3, 4), hidden)  # made # stored
    out.sum().backward(retain_graph=True)
"""),
    "a list of outputs": Leak("collection", "global `outputs[5]`", """
model = nn.Linear(4, 4)
outputs = []
def step():
    out = model(torch.randn(3, 4)).relu()  # made
    out.sum().backward()
    outputs.append(out)  # stored
"""),
    "a list of pairs": Leak("collection", "global `history[5][1]`", """
model = nn.Linear(4, 1)
history = []
def step(number):
    loss = model(torch.randn(3, 4)).square().mean()  # made
    loss.backward()
    history.append((number, loss))  # stored
"""),
    "a dict of lists": Leak("collection", "global `metrics['loss'][5]`", """
model = nn.Linear(4, 1)
metrics = {"loss": [], "accuracy": []}
def step():
    loss = model(torch.randn(3, 4)).square().mean()  # made
    loss.backward()
    metrics["loss"].append(loss)  # stored
    metrics["accuracy"].append(0.5)
"""),
    "a dict by step": Leak("collection", "global `losses[5]`", """
w = torch.randn(4, requires_grad=True)
losses = {}
def step(number):
    loss = (w * number).exp().sum()  # made
    loss.backward()
    losses[number] = loss  # stored
"""),
    "a logger's buffer": Leak("collection", "global `logger.records[5]['loss']`", """
class Logger:
    def __init__(self):
        self.records = []
    def log(self, **values):
        self.records.append(values)  # stored
logger = Logger()
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    loss.backward()
    logger.log(loss=loss)
"""),
    "every other step": Leak("collection", "global `kept[2]`", """
w = torch.randn(4, requires_grad=True)
kept = []
def step(number):
    loss = w.exp().sum()  # made
    loss.backward()
    if number % 2:
        kept.append(loss)  # stored
"""),
    "the closure of a tensor's hook": Leak(
        "hook", "closure variable `loss` of the hook `<lambda>` on global `model.weight`", """
model = nn.Linear(4, 4)
def step():
    loss = model(torch.randn(2, 4)).sum()  # made
    model.weight.register_hook(lambda grad: grad / loss.numel())  # stored
    loss.backward()
"""),
    "the closure of a module's forward hook": Leak(
        "hook", "closure variable `scale` of the hook `rescale` on global `model[0]`", """
model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
w = torch.ones(4, requires_grad=True)
def step():
    scale = w.exp()  # made
    def rescale(module, args, output):
        return output * scale.detach()
    model[0].register_forward_hook(rescale)  # stored
    model(torch.randn(2, 4)).sum().backward()
"""),
    "a hook after accumulation": Leak("hook", "closure variable `loss` of the hook `log` on global `w`", """
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    def log(parameter):
        loss.detach()
    w.register_post_accumulate_grad_hook(log)  # stored
    loss.backward()
"""),
    "what a forward hook collects": Leak("collection", "global `activations[5]`", """
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
activations = []
def keep(module, args, output):
    activations.append(output)  # stored
model[1].register_forward_hook(keep)
def step():
    model(torch.randn(3, 4)).sum().backward()  # made
"""),
    "an exception's traceback": Leak("traceback", "local `loss` of `train`, in the traceback of global `errors[5]`", """
w = torch.randn(4, requires_grad=True)
errors = []
def train():
    loss = w.exp().sum()  # made
    loss.backward()
    raise ValueError("NaN")
def step():
    try:
        train()
    except ValueError as error:
        errors.append(error)  # stored
"""),
    "an exception in a dict": Leak("traceback", "local `loss` of `train`, in the traceback of global `failed[5]`", """
w = torch.randn(4, requires_grad=True)
failed = {}
def train():
    loss = w.exp().sum()  # made
    raise RuntimeError(f"loss {loss.item()}")
def step(number):
    try:
        train()
    except RuntimeError as error:
        failed[number] = error  # stored
"""),
    "a cached attribute of every batch": Leak("collection", "global `batches[5].features`", """
class Batch:
    def __init__(self):
        self.x = torch.randn(2, 4)
        self.features = None
batches = [Batch() for _ in range(6)]
encoder = nn.Linear(4, 4)
def step(number):
    batch = batches[number]
    if batch.features is None:
        batch.features = encoder(batch.x)  # made # stored
    batch.features.sum().backward()
"""),
    "a cached attribute made on the fly": Leak("collection", "global `model.output5`", """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
    def forward(self, x, number):
        out = self.linear(x).relu()  # made
        setattr(self, f"output{number}", out)  # stored
        return out
model = Model()
def step(number):
    model(torch.randn(2, 4), number).sum().backward()
"""),
    "functools.cache": Leak("cache", "the cache of `embed`", """
import functools
table = nn.Embedding(10, 4)
@functools.cache
def embed(index):
    return table(index).tanh()  # made # stored
def step():
    embed(torch.tensor([1, 2])).sum().backward()
"""),
    "a default value": Leak("default", "default value `seen[5]` of the function `record`", """
w = torch.randn(4, requires_grad=True)
def record(loss, seen=[]):
    seen.append(loss)  # stored
def step():
    loss = w.exp().sum()  # made
    loss.backward()
    record(loss)
"""),
    "a class attribute": Leak("collection", "class attribute `Meter.values[5]`", """
class Meter:
    values = []
    def update(self, value):
        Meter.values.append(value)  # stored
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    loss.backward()
    Meter().update(loss)
"""),
    "a suspended generator": Leak("generator", "local `loss` of `losses`, suspended as global `running[5]`", """
w = torch.randn(4, requires_grad=True)
running = []
def losses():
    loss = w.exp().sum()  # made
    yield loss.item()
    loss.backward()
def step():
    generator = losses()
    next(generator)
    running.append(generator)  # stored
"""),
    "running statistics": Leak("chain", "global `norm.mean`", """
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(4))
    def forward(self, x):
        x = x * self.scale
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)  # made # stored
        return x
norm = Norm()
def step():
    norm(torch.randn(3, 4)).sum().backward()
"""),
    "an average of weights": Leak("chain", "global `average`", """
model = nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
average = torch.zeros(4, 4)
def step():
    global average
    model(torch.randn(2, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    average = 0.99 * average + 0.01 * model.weight  # made # stored
"""),
    "create_graph, and .grad never cleared": Leak("grad", "global `w.grad`", """
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()
    loss.backward(create_graph=True)  # made # stored
"""),
    "thread-local storage": Leak("collection", "global `context.losses[5]`", """
import threading
context = threading.local()
context.losses = []
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    loss.backward()
    context.losses.append(loss)  # stored
"""),
    "a node kept": Leak("collection", "global `nodes[5]`", """
w = torch.randn(4, requires_grad=True)
nodes = []
def step():
    loss = w.exp().sum()  # made
    nodes.append(loss.grad_fn)  # stored
"""),
    "a model made anew with create_graph": Leak("cycle", "`<Parameter object>.grad`", """
def step():
    model = nn.Linear(4, 4)
    loss = model(torch.randn(2, 4)).square().sum()
    loss.backward(create_graph=True)  # made
"""),
    "a queue": Leak("collection", "global `queue.queue[5]`", """
import queue as queues
queue = queues.Queue()
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    queue.put(loss)  # stored
"""),
    "a partial": Leak("collection", "global `callbacks[5].args[0]`", """
import functools
callbacks = []
w = torch.randn(4, requires_grad=True)
def step():
    loss = w.exp().sum()  # made
    callbacks.append(functools.partial(print, loss))  # stored
"""),
    "closures in a list": Leak("closure", "closure variable `loss` of the function `report`", """
w = torch.randn(4, requires_grad=True)
reports = []
def step():
    loss = w.exp().sum()  # made
    def report():
        return loss.item()
    reports.append(report)  # stored
"""),
    "a custom function's output in a list": Leak("collection", "global `kept[5]`", """
class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3
    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        return 3 * x ** 2 * grad
w = torch.randn(4, requires_grad=True)
kept = []
def step():
    out = Cube.apply(w)  # made
    kept.append(out)  # stored
"""),
}

# Their fix is more than another line in place of the marked one: code after it, or a decision.
FIXED_ELSEWHERE = {
    "a logger's buffer",
    "the closure of a tensor's hook",
    "the closure of a module's forward hook",
    "a hook after accumulation",
    "a cached attribute of every batch",
    "functools.cache",
    "a suspended generator",
    "create_graph, and .grad never cleared",
    "a node kept",
    "a model made anew with create_graph",
    "a partial",
    "closures in a list",
}

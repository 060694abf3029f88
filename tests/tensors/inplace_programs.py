"""Programs that write in place: those that ruin a gradient or are refused, and those that are fine.

The comments `# saves` and `# changes` mark the lines that `trace_inplace` must name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    kind: str
    saved_by: str
    changed_by: str
    source: str


FAILURES = {
    "+= on the output of sigmoid": Failure("version", "sigmoid", "add_", """
x = torch.randn(3, requires_grad=True)
y = x.sigmoid()  # saves
y += 1  # changes
y.sum().backward()
"""),
    "ReLU(inplace=True) behind a Sigmoid": Failure("version", "tanh", "relu", """
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.ReLU(inplace=True))
net(torch.randn(2, 3)).sum().backward()  # saves # changes
"""),
    "a module that writes to its input": Failure("version", "linear", "mul_", """
class Scale(nn.Module):
    def forward(self, x):
        return x.mul_(2)  # changes
x = torch.randn(2, 3, requires_grad=True)
hidden = x * 1
z = F.linear(hidden, torch.randn(4, 3, requires_grad=True))  # saves
(z.sum() + Scale()(hidden).sum()).backward()
"""),
    "a weight stepped between forward and backward": Failure("version", "linear", "_foreach_add_", """
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=True)
first = net(torch.randn(2, 3)).mean()  # saves
second = first * 2
first.backward(retain_graph=True)
optimizer.step()  # changes
second.backward()
"""),
    "a fused optimizer between forward and backward": Failure("unseen", "matmul", "_fused_adam_", """
w = torch.randn(3, 3, requires_grad=True)
x = torch.randn(2, 3, requires_grad=True)
loss = (x @ w).sum()  # saves
w.grad = torch.ones_like(w)
torch.optim.Adam([w], fused=True).step()  # changes
loss.backward()
"""),
    "a weight updated under no_grad before backward": Failure("version", "mul", "sub_", """
w = torch.randn(3, requires_grad=True)
x = torch.randn(3, requires_grad=True)
loss = (w * x).sum()  # saves
with torch.no_grad():
    w -= 0.1  # changes
loss.backward()
"""),
    "a view of a saved tensor": Failure("version", "exp", "zero_", """
x = torch.randn(4, requires_grad=True)
y = x.exp()  # saves
row = y[:2]
row.zero_()  # changes
y.sum().backward()
"""),
    "index assignment": Failure("version", "exp", "__setitem__", """
x = torch.randn(4, requires_grad=True)
y = x.exp()  # saves
y[y > 1] = 0  # changes
y.sum().backward()
"""),
    "out=": Failure("version", "pow", "mul", """
x = torch.randn(4, requires_grad=True)
buffer = torch.ones(4)
y = (x * buffer.pow(2)).sum() + (x.pow(buffer)).sum()  # saves
torch.mul(buffer, 3, out=buffer)  # changes
y.backward()
"""),
    "detach() shares the version": Failure("version", "exp", "add_", """
x = torch.randn(4, requires_grad=True)
y = x.exp()  # saves
y.detach().add_(1)  # changes
y.sum().backward()
"""),
    "the hidden states of an RNN in one tensor": Failure("version", "matmul", "__setitem__", """
w = torch.randn(3, 3, requires_grad=True)
h = torch.zeros(4, 3)
for t in range(3):
    h[t + 1] = torch.tanh(h[t] @ w)  # saves # changes
h.sum().backward()
"""),
    "a custom Function's saved tensor": Failure("version", "Square", "add_", """
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad
x = torch.randn(3, requires_grad=True) * 1
y = Square.apply(x)  # saves
x += 1  # changes
y.sum().backward()
"""),
    "the argument of a checkpoint": Failure("version", "checkpoint", "mul_", """
x = torch.randn(3, requires_grad=True) * 1
y = checkpoint(lambda t: t.exp().sin(), x, use_reentrant=False)  # saves
x.mul_(2)  # changes
y.sum().backward()
"""),
    ".data edit": Failure("unseen", "exp", "mul_", """
x = torch.randn(4, requires_grad=True)
y = x.exp()  # saves
y.data.mul_(2)  # changes
y.sum().backward()
"""),
    ".data edit of one element": Failure("unseen", "linear", "__setitem__", """
x = torch.randn(5, 4, requires_grad=True)
w = torch.randn(3, 4, requires_grad=True)
y = F.linear(x, w)  # saves
w.data[2, 1] = 0  # changes
y.sum().backward()
"""),
    "assignment to .data": Failure("unseen", "pow", ".data =", """
x = torch.randn(4, requires_grad=True)
y = (x ** 3).sum()  # saves
x.data = x.data - 0.1  # changes
y.backward()
"""),
    "assignment to .data of an intermediate": Failure("unseen", "pow", ".data =", """
x = torch.randn(4, requires_grad=True)
z = x * 2
y = (z ** 3).sum()  # saves
z.data = torch.zeros(4)  # changes
y.backward()
"""),
    "a NumPy array of the same memory": Failure("unseen", "exp", "a write outside PyTorch", """
x = torch.randn(4, requires_grad=True)
y = x.exp()  # saves
y.detach().numpy()[0] = 5  # changes
y.sum().backward()
"""),
    "a tensor made from a NumPy array": Failure("unseen", "mul", "a write outside PyTorch", """
array = np.ones(4, dtype=np.float32)
x = torch.randn(4, requires_grad=True)
y = (x * torch.from_numpy(array)).sum()  # saves # changes
array *= 2
y.backward()
"""),
    "a leaf that requires grad": Failure("refused", "", "sub_", """
w = torch.randn(3, requires_grad=True)
w -= 0.1  # changes
"""),
    "a view of a leaf": Failure("refused", "", "__setitem__", """
w = torch.randn(3, requires_grad=True)
w[0] = 0.1  # changes
"""),
    "one of many views": Failure("refused", "", "mul_", """
x = torch.randn(3, 2, requires_grad=True) * 1
a, b, c = x.unbind()
a.mul_(2)  # changes
"""),
    "a view taken under no_grad": Failure("refused", "", "mul_", """
x = torch.randn(3, requires_grad=True)
with torch.no_grad():
    view = x[:2]
view.mul_(2)  # changes
"""),
    "out= of a tensor with history": Failure("refused", "", "mul", """
x = torch.randn(3, requires_grad=True)
torch.mul(x, 2, out=torch.empty(3))  # changes
"""),
    "an expanded tensor": Failure("refused", "", "add_", """
row = torch.zeros(1, 3).expand(4, 3)
row.add_(1)  # changes
"""),
}  # fmt: skip

LEGITIMATE = {
    "relu_ behind a linear layer": """
net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
net(torch.randn(2, 3)).sum().backward()
""",
    "a bias added in place": """
w, b = torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
y = torch.randn(2, 3) @ w
y += b
y.sum().backward()
""",
    "an optimizer's step behind backward, several times": """
net = nn.Linear(3, 2)
optimizer = torch.optim.Adam(net.parameters())
for _ in range(3):
    optimizer.zero_grad(set_to_none=False)
    loss = net(torch.randn(4, 3)).square().mean()
    loss.backward()
    optimizer.step()
""",
    "an average of the weights": """
net, average = nn.Linear(3, 2), nn.Linear(3, 2)
for _ in range(2):
    net(torch.randn(4, 3)).sum().backward()
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), net.parameters()):
            slow.lerp_(fast, 0.1)
""",
    "running statistics, two forwards before one backward": """
net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
(net(torch.randn(2, 1, 5, 5)).sum() + net(torch.randn(2, 1, 5, 5)).sum()).backward()
""",
    "instance norm with running statistics": """
net = nn.InstanceNorm1d(2, track_running_stats=True)
x = torch.randn(2, 2, 5, requires_grad=True)
(net(x).sum() + net(x).sum()).backward()
""",
    "gradients clipped in place": """
net = nn.Linear(3, 2)
net(torch.randn(4, 3)).sum().backward()
nn.utils.clip_grad_norm_(net.parameters(), 0.1)
""",
    "the output of an addition": """
x = torch.randn(3, requires_grad=True)
y = x + 1
y *= 2
y.sum().backward()
""",
    "dropout in place": """
net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5, inplace=True), nn.Linear(4, 1))
net(torch.randn(2, 3)).sum().backward()
""",
    "a saved tensor written behind its backward": """
x = torch.randn(3, requires_grad=True)
y = x.exp()
y.sum().backward()
y.data.zero_()
""",
    "an equal value written through .data": """
x = torch.randn(3, requires_grad=True)
y = x.exp()
y.data.mul_(1)
y.sum().backward()
""",
    "a NumPy array that is only read": """
x = torch.randn(3, requires_grad=True)
y = x.exp()
total = y.detach().numpy().sum()
y.sum().backward()
""",
    "evaluation without gradients": """
with torch.no_grad():
    y = torch.randn(3).exp()
    y += 1
""",
    "a buffer reused after its graph is gone": """
buffer = torch.empty(3)
for _ in range(3):
    buffer.normal_()
    x = torch.randn(3, requires_grad=True)
    (x * buffer).sum().backward()
""",
}

# %% [markdown]
# # 2.3 Custom autograd functions
#
# You write a `backward` by hand. Your test compares it with autograd's gradient, to the last bit, and passes. In the
# real model it is wrong at every step. It forgot one factor, and your test could not see it.
#
# You will learn what PyTorch asks of a `torch.autograd.Function` and which of your mistakes it notices, read its error
# messages word by word, see what a tensor on `ctx` costs, measure where a formula beats recording (memory, numbers)
# and where it does not, take your function through `vmap`, second derivatives and the compiler, and take home
# `check_function`, which asks all of these questions at once.

# %%
import ctypes
import gc
import warnings
import weakref
from collections.abc import Callable  # for a kata

import torch
from torch import nn
from torch.autograd import gradcheck
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt import begin, check, check_function, claim, error_of, measure, predict, summary
from blackbelt.report import Code, Curves, Drawing, Prose, Table

begin("autograd/functions")

# %% [markdown]
# ## Predict
#
# The derivative of x² is 2x. Here is the function, and the test.

# %%


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 2 * x


x = torch.linspace(-1, 1, 5, requires_grad=True)
Square.apply(x).sum().backward()
claim("the test passes: after `.sum()` the gradient is that of autograd", torch.equal(x.grad, 2 * x))

# %%
losses = {
    "y.sum()": lambda y: y.sum(),
    "y.mean()": lambda y: y.mean(),
    "(3 * y).sum()": lambda y: (3 * y).sum(),
    "y.square().sum()": lambda y: y.square().sum(),
}
right_for = predict(
    "For which of the four losses is the gradient of x right?",
    {
        "A": "for all: autograd does the chain rule, backward only gives the local derivative",
        "B": "for `y.sum()` only",
        "C": "for `y.sum()` and `y.mean()`: both only add",
        "D": "for all but the last: the others are linear in y",
    },
)

# %%


def gradients(function, loss):
    """Return the gradient of x, and the one that came in at y."""
    x = torch.linspace(-1, 1, 5, requires_grad=True)
    y = function(x)
    y.retain_grad()
    loss(y).backward()
    return x.grad, y.grad


rows, right = [], []
for code, loss in losses.items():
    wanted, incoming = gradients(lambda x: x * x, loss)
    got, _ = gradients(Square.apply, loss)
    right.append(torch.allclose(got, wanted))
    numbers = [" ".join(f"{value:.2g}" for value in tensor.tolist()) for tensor in (incoming, wanted, got)]
    rows.append((code, *numbers))
wrong_rows = frozenset(index for index, good in enumerate(right) if not good)
Drawing(
    Table(
        ("loss", "grad_output", "right gradient", "ours"),
        rows,
        title="What comes in, and what goes out",
        marked=wrong_rows,
    )
)

# %%
letters = {(True,) * 4: "A", (True, False, False, False): "B", (True, True, False, False): "C"}
letters[True, True, True, False] = "D"
right_for.settle(
    letters[tuple(right)],
    because={
        "A": "The other way round: autograd calls `backward` and passes on what it returns. The chain rule is yours.",
        "B": "",
        "C": "The mean divides by 5, so what comes in is 0.2 and not 1. Our backward never looked.",
        "D": "Linear or not: 3 · y sends a 3 in. Only where a 1 comes in may you leave it out.",
    },
)

# %% [markdown]
# It forgot `grad_output`. That argument is the gradient of the loss with respect to *your output*; what you return is
# the gradient of the loss with respect to *your input*. Backward is not asked for a derivative. It is asked for a
# **product**: what comes in, times your derivative. `.sum()` is the one loss that sends in all ones, and it is the one
# that everybody tests with.
#
# ## See: a node of your own
#
# `apply` runs `forward` without recording, and makes one node. The node is the `ctx` that you know.


# %%
class Softmax(torch.autograd.Function):
    @staticmethod
    def forward(x):
        Softmax.recording = torch.is_grad_enabled()
        e = (x - x.max()).exp()
        return e / e.sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad_output):
        Softmax.node = ctx
        (y,) = ctx.saved_tensors
        return y * (grad_output - (grad_output * y).sum())


x = torch.tensor([0.0, 1.0, 2.0, 3.0], requires_grad=True)
y = Softmax.apply(x)
behind = y.grad_fn.next_functions[0][0]
rows = [torch.autograd.grad(y, x, unit, retain_graph=True)[0] for unit in torch.eye(4)]
print("y.grad_fn:", y.grad_fn.name(), " behind it:", behind.name())
claim(
    "`forward` ran with recording off; one node came of it, and `ctx` is that node",
    Softmax.recording is False and behind.name().endswith("AccumulateGrad") and Softmax.node is y.grad_fn,
)
jacobian = torch.autograd.functional.jacobian(lambda x: x.softmax(0), x.detach())
claim(
    "sent a unit vector, backward answers with one row of the Jacobian matrix",
    torch.allclose(torch.stack(rows), jacobian, atol=1e-6),
)

# %% [markdown]
# So backward is a *vector-Jacobian product*. The matrix itself is never built: for a tensor of a million elements it
# would have a million rows. Look at how `Softmax.backward` mixes the elements: `grad_output * derivative` is the rule
# for elementwise functions only.
#
# Who calls it: `PyNode::apply` in `torch/csrc/autograd/python_function.cpp`.
#
# ## The errors of backward, word by word
#
# Four mistakes that PyTorch notices, and one that it mends without a word.


# %%
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(x, factor):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.factor


x = torch.ones(3, requires_grad=True)
wrong_number = error_of(lambda: Scale.apply(x, 2.0).sum().backward())
wrong_number

# %% [markdown]
# - *function ScaleBackward*: your class, plus `Backward`. It is the node, not a function that you wrote.
# - *incorrect number of gradients*: one value for every argument of `forward`, in its order, tensor or not.
# - *expected 2, got 1*: `x` and `factor`. The missing one is `None`: a number has no gradient. Write
#   `return grad_output * ctx.factor, None`.
#
# The opposite, a gradient for something that is no tensor:

# %%


def function(forward, setup_context, backward):
    """Make a Function of three parts."""
    parts = {"forward": forward, "setup_context": setup_context, "backward": backward}
    return type("Mine", (torch.autograd.Function,), {name: staticmethod(part) for name, part in parts.items()})


def save_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


Both = function(lambda x, factor: x * factor, lambda *_: None, lambda ctx, grad: (grad * 2.0, grad.sum()))
not_a_variable = error_of(lambda: Both.apply(x, 2.0).sum().backward())
not_a_variable

# %% [markdown]
# - *position 2*: counted from 1, so the second value that you returned.
# - *was not a Variable*: "tensor", in the words of PyTorch before 0.4. There is no place to put a gradient of `2.0`.
#
# Now the shapes. `x` is (4, 3), `w` is (3,), the product broadcasts.

# %%
rows, row = torch.ones(4, 3, requires_grad=True), torch.ones(3, requires_grad=True)
mended = predict(
    "`x * w` with x (4, 3) and w (3,). Backward returns `grad_output * x` for `w`: shape (4, 3). What happens?",
    {
        "A": "an error: a gradient has the shape of its input",
        "B": "`w.grad` has shape (4, 3), and the optimizer fails",
        "C": "autograd sums it over the first dimension: `w.grad` has shape (3,) and is right",
    },
)

# %%


def product(x_gradient, w_gradient):
    def backward(ctx, grad_output):
        x, w = ctx.saved_tensors
        return x_gradient(grad_output, x, w), w_gradient(grad_output, x, w)

    return function(lambda x, w: x * w, save_inputs, backward)


too_large = product(lambda grad, x, w: grad * w, lambda grad, x, w: grad * x)
too_large.apply(rows, row).sum().backward()
letter = "C" if row.grad.tolist() == [4.0, 4.0, 4.0] else "B" if row.grad.shape == (4, 3) else "A"
mended.settle(
    letter,
    because={
        "A": "Only for a gradient that is too *small*. A larger one is summed to the input's shape, without a word.",
        "B": "The engine checks every gradient against the input's shape before it passes it on.",
        "C": "",
    },
)
too_small = product(lambda grad, x, w: (grad * w).sum(0), lambda grad, x, w: grad * x)
wrong_shape = error_of(lambda: too_small.apply(rows, row).sum().backward())
wrong_shape

# %% [markdown]
# - *at index 0*: now counted from 0. It is the gradient of the first argument.
# - *expected shape compatible with [4, 3]*: not "equal to". Whatever could have been broadcast from (4, 3) is summed
#   back to it; (3,) could not. Both happen in `validate_outputs` of `torch/csrc/autograd/engine.cpp`.
#
# Convenient for broadcasting. It is also a net that hides a mistake: a gradient with one dimension too many is summed,
# whatever you meant.

# %%
claim(
    "the engine sums a gradient that is too large and refuses one that is too small",
    row.grad.shape == (3,) and "got [3] but expected shape compatible with [4, 3]" in wrong_shape.message,
)
unsaveable = error_of(lambda: function(lambda x, k: x * k, save_inputs, None).apply(x, 2.0))
unsaveable

# %% [markdown]
# - *save_for_backward can only save variables*: tensors (and `None`). Numbers, shapes, flags: set them as attributes,
#   `ctx.factor = factor`. That is what attributes are for, and they are for nothing else, as you will see.
#
# In-place functions have one more duty, `ctx.mark_dirty`. You built one in lesson 1.4, `leaky_relu_in_place`.
#
# ## See: work that nobody asked for
#
# A linear layer whose weight is frozen, as in LoRA. Autograd's own `mm` knows that. Does yours?


# %%
class Operators(TorchDispatchMode):
    """Writes down the operators that reach the kernels."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def always_both(ctx, grad_output):
    x, w = ctx.saved_tensors
    return grad_output @ w, grad_output.t() @ x


def only_what_is_needed(ctx, grad_output):
    x, w = ctx.saved_tensors
    needs_x, needs_w = ctx.needs_input_grad
    return grad_output @ w if needs_x else None, grad_output.t() @ x if needs_w else None


def products_in_backward(apply):
    x, frozen = torch.ones(8, 4, requires_grad=True), torch.ones(5, 4)
    y = apply(x, frozen)
    with Operators() as seen:
        y.backward(torch.ones(8, 5))
    return seen.names.count("mm")


counts = {
    "autograd": products_in_backward(lambda x, w: x @ w.t()),
    "always both": products_in_backward(function(lambda x, w: x @ w.t(), save_inputs, always_both).apply),
    "needs_input_grad": products_in_backward(function(lambda x, w: x @ w.t(), save_inputs, only_what_is_needed).apply),
}
claim(
    "a backward that does not ask `ctx.needs_input_grad` pays for a gradient that is thrown away",
    (counts["autograd"], counts["always both"], counts["needs_input_grad"]) == (1, 2, 1),
    figures={f"{name}, matrix products": count for name, count in counts.items()},
)

# %% [markdown]
# ## Predict: the same tensor, kept in two ways
#
# Both functions keep their input. One passes it to `save_for_backward`, the other sets `ctx.x = x`. Then somebody
# multiplies it by 10, before backward. (Lesson 1.4 showed why that is allowed.)

# %%


def set_attribute(ctx, inputs, output):
    (ctx.x,) = inputs


Saved = function(lambda x: x * x, save_inputs, lambda ctx, grad: grad * 2 * ctx.saved_tensors[0])
Attribute = function(lambda x: x * x, set_attribute, lambda ctx, grad: grad * 2 * ctx.x)


def changed_before_backward(square):
    w = torch.ones(3, requires_grad=True)
    h = w * 1
    loss = square(h).sum()
    with torch.no_grad():
        h *= 10
    loss.backward()
    return w.grad.tolist()


kept_how = predict(
    "h = 1, y = h², then `h *= 10` under `no_grad`, then backward. The right gradient is 2. What comes out?",
    {
        "A": "2 from both: what was kept was kept at the time of forward",
        "B": "`save_for_backward`: an error. `ctx.x`: 20",
        "C": "an error from both: the version counter has moved",
        "D": "`save_for_backward`: 2, it keeps a copy. `ctx.x`: 20",
    },
)

# %%
refused = error_of(lambda: changed_before_backward(Saved.apply))
silent = changed_before_backward(Attribute.apply)
kept_how.settle(
    "B" if "modified by an inplace operation" in refused.message and silent == [20.0] * 3 else "D",
    because={
        "A": "Neither copies. Both hold the same memory, and the memory has changed.",
        "B": "",
        "C": "The counter has moved, but only `save_for_backward` wrote down what it was, and only it compares.",
        "D": "It keeps no copy; that would double the memory. It keeps the version, and refuses.",
    },
)
claim("`ctx.x = x` turns PyTorch's best-known error into a gradient that is ten times too large", silent == [20.0] * 3)
refused

# %% [markdown]
# That message you know from lesson 1.4. `save_for_backward` takes the tensor *and its version*
# (`SavedVariable` in `torch/csrc/autograd/saved_variable.cpp`); an attribute is a plain Python attribute. Whatever
# manages memory between forward and backward looks only there: hooks on saved tensors, and with them CPU offload and
# checkpointing.

# %%


def seen_by_hooks(square):
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        square(torch.ones(3, requires_grad=True))
    return len(seen)


claim(
    "hooks on saved tensors see what went through `save_for_backward`, and not the attribute",
    (seen_by_hooks(Saved.apply), seen_by_hooks(Attribute.apply)) == (1, 0),
)

# %% [markdown]
# ## Measure: the leak

# %%


def keep_output(ctx, inputs, output):
    ctx.y = output


def save_output(ctx, inputs, output):
    ctx.save_for_backward(output)


ExpAttribute = function(lambda x: x.exp(), keep_output, lambda ctx, grad: grad * ctx.y)
ExpSaved = function(lambda x: x.exp(), save_output, lambda ctx, grad: grad * ctx.saved_tensors[0])


def alive_after(steps, exp):
    """Run a loop that keeps nothing; return how many of its outputs are alive after each step."""
    x = torch.zeros(1000, requires_grad=True)
    outputs, alive = [], []
    for _ in range(steps):
        y = exp(x)
        outputs.append(weakref.ref(y))
        y.sum().backward()
        del y
        alive.append(sum(reference() is not None for reference in outputs))
    return alive


gc.collect()
gc.disable()  # Python's cycle collector runs when it likes; here it must not
alive_saved, alive_attribute = alive_after(20, ExpSaved.apply), alive_after(20, ExpAttribute.apply)
gc.enable()
Drawing(
    Curves(
        {"ctx.y = output": (range(1, 21), alive_attribute), "save_for_backward": (range(1, 21), alive_saved)},
        "step",
        "outputs still alive",
        "Nothing is kept, backward has run",
        log=False,
    )
)

# %%
alive_before = alive_attribute[-1]
probe = weakref.ref(ExpAttribute.apply(torch.zeros(3, requires_grad=True)))
still_there = probe() is not None
gc.collect()
claim(
    "an output on `ctx` is never freed by its last reference, even after backward; through `save_for_backward` it is",
    alive_before == 20 and alive_saved[-1] == 0,
    figures={"alive after 20 steps, ctx.y": alive_before, "save_for_backward": alive_saved[-1]},
)
claim("only Python's cycle collector gets it back", still_there and probe() is None)

# %% [markdown]
# The output holds its `grad_fn`, the node is `ctx`, and `ctx.y` holds the output: a cycle. Python collects cycles when
# enough new *objects* have been made (`gc.get_threshold()`), and a tensor of a gigabyte is one object. On a GPU that
# reads as "out of memory after a random number of steps". `save_for_backward` breaks the cycle: it keeps an output
# without its history and joins the two again when you unpack.
#
# The rule: **tensors go through `save_for_backward`, everything else on `ctx`.**
#
# ## gradcheck, word by word
#
# `torch.autograd.gradcheck` compares your backward with finite differences of your forward, element by element. Here
# is a cube whose derivative is off by a third.

# %%
SlowCube = function(lambda x: x**3, save_inputs, lambda ctx, grad: grad * 2 * ctx.saved_tensors[0] ** 2)
in_double = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
mismatch = error_of(lambda: gradcheck(SlowCube.apply, (in_double,)))
mismatch

# %% [markdown]
# - *for output 0 with respect to input 0*: which pair. Functions may have several of both.
# - *numerical*: (f(x + h) − f(x − h)) / 2h, with h = 10⁻⁶. This one is right.
# - *analytical*: what your backward says. Row j, column i: how output i moves with input j.
#
# Read the *pattern*. Off by one factor everywhere: a constant (here 2/3). Zeros where numbers should be: a term or a
# path is missing. Full where it should be diagonal, or the other way round: you treat elements as if they did (not)
# mix. And now the square from the beginning:

# %%
claim(
    "gradcheck refuses `Square`", "Jacobian mismatch" in error_of(lambda: gradcheck(Square.apply, (in_double,))).message
)

SumOfSquares = function(lambda x: x.square().sum(), save_inputs, lambda ctx, grad: 2 * ctx.saved_tensors[0])
not_multiplied = error_of(lambda: gradcheck(SumOfSquares.apply, (in_double,)))
not_multiplied

# %% [markdown]
# The second one returns a scalar, so the matrices agree: with one output, the unit vector *is* 1. gradcheck sends zeros
# in as well, and zeros must come out. *backward not multiplied by grad_output* names your mistake.
#
# Two limits to know. It needs float64: with h = 10⁻⁶ a float32 difference is mostly rounding.

# %%
Cube = function(lambda x: x**3, save_inputs, lambda ctx, grad: grad * 3 * ctx.saved_tensors[0] ** 2)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns about exactly this
    in_single = error_of(lambda: gradcheck(Cube.apply, (in_double.float(),)))
claim(
    "the right cube passes in float64 and fails in float32",
    gradcheck(Cube.apply, (in_double,)) and "Jacobian mismatch" in in_single.message,
)

# %% [markdown]
# And it asks for one derivative, of contiguous tensors, unchanged between forward and backward. It cannot see the
# attribute, the leak, or the frozen weight:

# %%
unseen = {
    "ctx.x = x": gradcheck(Attribute.apply, (in_double,)),
    "ctx.y = output": gradcheck(ExpAttribute.apply, (in_double,)),
    "always both": gradcheck(
        function(lambda x, w: x @ w.t(), save_inputs, always_both).apply,
        (torch.ones(2, 3, dtype=torch.float64, requires_grad=True), torch.ones(2, 3, dtype=torch.float64)),
    ),
}
claim("gradcheck passes three functions of this lesson that you would not ship", all(unseen.values()))

# %% [markdown]
# `check_function` asks the rest, and names the cause instead of the symptom. First the square, then the attribute:

# %%
report = check_function(Square, torch.randn(3, requires_grad=True))
report

# %%
attribute, leak = (check_function(f, torch.randn(3, requires_grad=True)) for f in (Attribute, ExpAttribute))
claim(
    "`check_function` names all three: no `grad_output`, an input on `ctx`, an output on `ctx`",
    (report.cause, attribute.cause, leak.cause) == ("ignores grad_output", "input saved on ctx", "output saved on ctx"),
)
attribute

# %% [markdown]
# ## Twice: the derivative of backward
#
# With `create_graph=True` backward is recorded as it runs. `ctx.saved_tensors` gives you back the very `x` that is in
# the graph, so 3x² has a derivative again. A backward that cannot be recorded (it calls C, or detaches) should say so
# with `@once_differentiable`, and PyTorch refuses:

# %%
CubeOnce = function(Cube.forward, save_inputs, once_differentiable(Cube.backward))


def gradient_penalty(cube, loss):
    """Return the gradient of loss + |gradient of loss|², a penalty as WGAN-GP has it."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    value = loss(cube(x))
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    (value + slope.square().sum()).backward()
    return x.grad.tolist()


twice = error_of(lambda: gradient_penalty(CubeOnce.apply, lambda y: y.square().sum()))
twice

# %% [markdown]
# *trying to differentiate twice a function that was marked with @once_differentiable*: the clearest message of this
# lesson. Here the loss was a sum of squares. Now a plain sum:

# %%
twice_right = gradient_penalty(lambda x: x**3, lambda y: y.sum())
twice_lost = gradient_penalty(CubeOnce.apply, lambda y: y.sum())
first_only = [3.0, 12.0]  # 3x² at 1 and 2: the gradient without any penalty
print("autograd's cube:", twice_right, "  @once_differentiable:", twice_lost)
claim(
    "where the incoming gradient is constant, `@once_differentiable` does not refuse: the penalty is lost in silence",
    twice_lost == first_only and twice_right != first_only,
)

# %% [markdown]
# The guard in `once_differentiable` (`torch/autograd/function.py`) looks at the *incoming gradients*: it complains only
# if one of them requires grad. After `.sum()` the incoming gradient is a constant 1, the result is detached, and the
# penalty is a constant too. The same happens, without any decorator, to a tensor that forward computed and saved:
# pytorch/pytorch#76185 asks for an error there.

# %%
SavesSlope = function(
    Cube.forward,
    lambda ctx, inputs, output: ctx.save_for_backward(3 * inputs[0] ** 2),
    lambda ctx, grad: grad * ctx.saved_tensors[0],
)
claim(
    "3x² saved by forward instead of computed by backward: the first derivative is right, the penalty is lost",
    gradcheck(SavesSlope.apply, (in_double,))
    and gradient_penalty(SavesSlope.apply, lambda y: y.square().sum())
    != gradient_penalty(Cube.apply, lambda y: y.square().sum()),
)
Drawing(Prose(check_function(SavesSlope, torch.randn(3, requires_grad=True))["double backward"].sentence))

# %% [markdown]
# ## `torch.func`: three more errors
#
# `vmap`, `jacrev`, per-sample gradients: `torch.func` wraps tensors before your function sees them, and asks for a
# Function of a certain form.


# %%
class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * 3 * x**2


batch = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
needs_setup = error_of(lambda: torch.func.grad(lambda x: OldStyle.apply(x).sum())(batch))
needs_setup

# %%
needs_rule = error_of(lambda: torch.vmap(Cube.apply)(batch))
needs_rule

# %% [markdown]
# - *it must override the setup_context staticmethod*: `forward(ctx, x)` does two things at once. Apart, PyTorch can run
#   the computation on wrapped tensors and the saving on their contents.
# - *set generate_vmap_rule=True*: one line, if forward and backward consist of PyTorch operations. If they call a
#   kernel of your own, write the `vmap` staticmethod.
#
# Forward mode has the third. It pushes a derivative forward, beside the value:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch itself still compiles some rules with torch.jit
    needs_jvp = error_of(lambda: torch.func.jvp(Cube.apply, (batch,), (batch,)))
needs_jvp

# %% [markdown]
# - *You must implement the jvp function*: it gets the tangents of the inputs and returns that of the output. Backward
#   multiplies by the Jacobian from the left, `jvp` from the right. What it needs goes through `save_for_forward`.
#
# A Function with everything:


# %%
class FullCube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * 3 * x**2

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent * 3 * x**2


per_sample = torch.vmap(torch.func.grad(lambda x: FullCube.apply(x).sum()))(batch)
full = check_function(FullCube, torch.randn(3, requires_grad=True))
claim(
    "per-sample gradients go through it, and in `check_function` gradcheck, double backward, jvp and vmap pass",
    torch.equal(per_sample, 3 * batch**2)
    and full.ok
    and all(full[name].status == "passed" for name in ("gradcheck", "double backward", "jvp", "vmap")),
)

# %% [markdown]
# ## Measure: when a formula saves memory
#
# Why write a Function at all? Reason one: you know what is worth keeping. Here are four ways to SiLU and three to
# LayerNorm; counted is what is kept for backward, in tensors of the size of `x`.


# %%
class RecomputedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad_output * s * (1 + x * (1 - s))


def normalized(x):
    centered = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centered.square().mean(-1, keepdim=True) + 1e-5)
    return centered * scale, scale


class RecomputedLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias):
        return normalized(x)[0] * weight + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad_output):
        x, weight = ctx.saved_tensors
        normal, scale = normalized(x)
        grad = grad_output * weight
        mixed = grad.mean(-1, keepdim=True) + normal * (grad * normal).mean(-1, keepdim=True)
        return scale * (grad - mixed), (grad_output * normal).sum(0), grad_output.sum(0)


ROWS, WIDTH = 256, 512
weight, bias = torch.ones(WIDTH, requires_grad=True), torch.zeros(WIDTH, requires_grad=True)
ways = {
    "SiLU, x / (1 + exp(-x))": lambda x: x / (1 + torch.exp(-x)),
    "SiLU, x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "SiLU, nn.functional.silu": nn.functional.silu,
    "SiLU, Function": RecomputedSiLU.apply,
    "LayerNorm, recorded": lambda x: normalized(x)[0] * weight + bias,
    "LayerNorm, nn.functional.layer_norm": lambda x: nn.functional.layer_norm(x, (WIDTH,), weight, bias),
    "LayerNorm, Function": lambda x: RecomputedLayerNorm.apply(x, weight, bias),
}


def kept_for_backward(way):
    """Return the bytes kept for backward, each storage once, in tensors of x's size."""
    x = torch.randn(ROWS, WIDTH, requires_grad=True) * 1
    storages = {}
    hold = []

    def pack(tensor):
        hold.append(tensor)
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        way(x)
    return sum(storages.values()) / (4 * ROWS * WIDTH)


beats = predict(
    "SiLU as a Function that saves only x and computes the sigmoid again. Against `nn.functional.silu` it keeps …",
    {
        "A": "half as much",
        "B": "just as much",
        "C": "more: a Python node costs memory",
    },
)

# %%
kept = {name: kept_for_backward(way) for name, way in ways.items()}
Drawing(Table(("", "kept, in tensors like x"), [(name, f"{size:.2f}") for name, size in kept.items()]))

# %%
ratio = kept["SiLU, nn.functional.silu"] / kept["SiLU, Function"]
beats.settle(
    "B" if abs(ratio - 1) < 0.01 else "A" if ratio > 1.5 else "C",
    because={
        "A": "Against the recorded formulas it does. PyTorch's own `silu` is already a formula that keeps only x.",
        "B": "",
        "C": "A node is some hundred bytes of Python. The tensors are what counts.",
    },
)
claim(
    "recorded, SiLU keeps two or three tensors; the Function keeps x, exactly like `nn.functional.silu`",
    abs(kept["SiLU, x * sigmoid(x)"] - 2) < 0.01
    and abs(kept["SiLU, x / (1 + exp(-x))"] - 3) < 0.01
    and abs(kept["SiLU, Function"] - 1) < 0.01
    and abs(ratio - 1) < 0.01,
)
claim(
    "LayerNorm: two tensors recorded, one in the Function and in `nn.functional.layer_norm`",
    abs(kept["LayerNorm, recorded"] - 2) < 0.02
    and abs(kept["LayerNorm, Function"] - 1) < 0.02
    and abs(kept["LayerNorm, nn.functional.layer_norm"] - 1) < 0.02,
)
x, gain, shift = (torch.randn(*shape, requires_grad=True) for shape in ((2, 4), (4,), (4,)))
claim(
    "both Functions pass `check_function`",
    check_function(RecomputedSiLU, x).ok and check_function(RecomputedLayerNorm, x, gain, shift).ok,
)

# %% [markdown]
# First look whether PyTorch has the formula already. Where it has not (your own norm, your own gated activation), the
# Function pays. What does computing twice cost? Eight layers of each, forward and backward:

# %%


def step(activation):
    def run(x):
        y = x * 1
        for _ in range(8):
            y = activation(y)
        y.sum().backward()

    return run


steps = measure(
    recorded=step(ways["SiLU, x / (1 + exp(-x))"]),
    formula=step(RecomputedSiLU.apply),
    builtin=step(nn.functional.silu),
    inputs=lambda: (torch.randn(ROWS, WIDTH, requires_grad=True),),
    rounds=3,
)
peak_ratio = steps["recorded"].peak_bytes / steps["formula"].peak_bytes
claim(
    "over eight layers the recorded step peaks at more than twice the memory",
    peak_ratio > 2,
    figures={"ratio": peak_ratio},
)
steps

# %% [markdown]
# ## Measure: when a formula saves the numbers
#
# Reason two. log Σ exp(x) is the heart of softmax and cross-entropy. On paper its gradient is the softmax, always
# between 0 and 1. Recorded as it stands, autograd multiplies 1 / Σ by exp(x).


# %%
class LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(x):
        largest = x.amax(-1, keepdim=True)
        return ((x - largest).exp().sum(-1, keepdim=True).log() + largest).squeeze(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output.unsqueeze(-1) * torch.softmax(x, -1)


logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))


def correct_digits(logsumexp, shift):
    """Return the correct decimal digits of the float32 gradient, against float64; 0 where it is NaN or infinite."""
    x = (logits + shift).requires_grad_()
    exact = x.detach().double().softmax(-1)
    logsumexp(x).sum().backward()
    error = ((x.grad - exact).abs() / exact).max()
    return max(0.0, -float(error.log10())) if error.isfinite() else 0.0


def recorded(x):
    return x.exp().sum(-1).log()


shifts = (-120, -110, -100, -90, -80, -60, -40, -20, 0, 20, 40, 60, 80, 90, 100, 110, 120)
versions = {"recorded": recorded, "torch.logsumexp": lambda x: x.logsumexp(-1), "Function": LogSumExp.apply}
digits = {name: [correct_digits(version, shift) for shift in shifts] for name, version in versions.items()}
Drawing(
    Curves(
        {name: (shifts, values) for name, values in digits.items()},
        "logits around …",
        "correct digits of the gradient",
        "log Σ exp in float32",
        log=False,
    )
)

# %%
at = {shift: {name: values[shifts.index(shift)] for name, values in digits.items()} for shift in (-110, 0, 110)}
claim(
    "recorded, the gradient is NaN around −110 and around 110; between −60 and 60 it is as good as any",
    at[-110]["recorded"] == at[110]["recorded"] == 0
    and all(value > 5 for shift, value in zip(shifts, digits["recorded"]) if abs(shift) <= 60),
)
claim(
    "the Function has the same digits everywhere",
    min(digits["Function"]) > 5.5,
    figures={f"digits around {shift}": values["Function"] for shift, values in at.items()},
)
claim(
    "it beats `torch.logsumexp`, which loses more than half a digit around 110",
    at[110]["torch.logsumexp"] < at[110]["Function"] - 0.5 and at[110]["torch.logsumexp"] > 4,
    figures={name: at[110][name] for name in ("torch.logsumexp", "Function")},
)
claim("it passes `check_function`", check_function(LogSumExp, torch.randn(3, 4, requires_grad=True)).ok)

# %% [markdown]
# Above, exp overflows to infinity; below, it underflows to 0, and 0 / 0 is no number either. The softmax subtracts the
# maximum first. `torch.logsumexp` never breaks, and loses digits as the logits grow: its formula is exp(x − result),
# and a result around 100 is rounded more coarsely than one around 0. There are better and worse formulas, too.
#
# ## Trap: the loss that ignored its weight
#
# A network fits a sine. Somebody adds a penalty on large activations, "very small, 0.0001", as a Function, because the
# real one will be a fused kernel. And it is tested.


# %%
class Penalty(torch.autograd.Function):
    @staticmethod
    def forward(hidden):
        return hidden.square().mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (hidden,) = ctx.saved_tensors
        return 2 * hidden / hidden.numel()


hidden = torch.randn(4, 5, requires_grad=True)
(alone,) = torch.autograd.grad(Penalty.apply(hidden), hidden)
(by_autograd,) = torch.autograd.grad(hidden.square().mean(), hidden)
claim("alone, the penalty has the gradient of autograd", torch.allclose(alone, by_autograd))

# %%
inputs = torch.linspace(-3, 3, 128)[:, None]
targets = torch.sin(3 * inputs)


def fit(penalty, weight, steps=300):
    torch.manual_seed(0)
    first, second = nn.Linear(1, 64), nn.Linear(64, 1)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.02)
    losses = []
    for _ in range(steps):
        hidden = torch.tanh(first(inputs))
        error = (second(hidden) - targets).square().mean()
        loss = error + weight * penalty(hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    return losses


runs = {
    "recorded, weight 0.0001": fit(lambda hidden: hidden.square().mean(), 1e-4),
    "Function, weight 0.0001": fit(Penalty.apply, 1e-4),
    "Function, weight 0.01": fit(Penalty.apply, 1e-2),
}
Drawing(
    Curves(
        {name: (range(1, 301, 10), losses[::10]) for name, losses in runs.items()},
        "step",
        "mean squared error of the fit",
        "The same penalty, three ways",
        log=False,
    )
)

# %%
good, bad, other = ([*losses] for losses in runs.values())
tails = [sum(losses[-20:]) / 20 for losses in (good, bad)]
claim("the first error of both is the same to the bit", good[0] == bad[0])
claim(
    "after 300 steps the run with the Function has more than twice the error",
    tails[1] > 2 * tails[0],
    figures={"recorded": tails[0], "Function": tails[1]},
)
claim("the weight of the penalty has no effect at all: with 0.01 the run is the same to the bit", bad == other)

# %% [markdown]
# Nobody finds that by tuning the weight: the knob is not connected. A gradient scaler, `loss / accumulation_steps`, a
# warm-up of the auxiliary loss would be ignored just the same.

# %%
found = check_function(Penalty, torch.randn(4, 5, requires_grad=True))
claim("`check_function` finds it before the first step", found.cause == "ignores grad_output")
found

# %% [markdown]
# ## The road that survives the compiler
#
# `torch.compile` traces *into* a Function: forward and backward become part of the graph, as long as they consist of
# operations that it knows. A kernel of your own it does not know. Here is one that works on addresses, as C and CUDA
# kernels do. (All of this is captured with the backend `aot_eager`: graphs of forward and backward, no code
# generation.)


# %%
def foreign_silu(x):
    """SiLU, in memory that is handed over by address."""
    y = torch.zeros_like(x)
    there = x.untyped_storage().nbytes() - x.storage_offset() * x.element_size()
    ctypes.memmove(y.data_ptr(), x.data_ptr(), min(there, y.numel() * y.element_size()))
    return y.mul_(torch.sigmoid(x))


ForeignSiLU = function(foreign_silu, save_inputs, RecomputedSiLU.backward)
compiled = torch.compile(lambda x: 2 * ForeignSiLU.apply(x), backend="aot_eager", fullgraph=True)
break_in_graph = error_of(lambda: compiled(torch.randn(3, requires_grad=True)))
print(break_in_graph.type_name, "·", break_in_graph.message.splitlines()[0])

# %% [markdown]
# An *operator* is a name in PyTorch's dispatcher that the compiler takes as it is. It believes what you declare: the
# schema (read from the annotations, with `mutates_args`), what comes out for shapes without data (`register_fake`), and
# the gradient (`register_autograd`).


# %%
@torch.library.custom_op("blackbelt_lesson::silu", mutates_args=())
def silu_op(x: torch.Tensor) -> torch.Tensor:
    return foreign_silu(x)


undeclared = error_of(lambda: silu_op(torch.randn(3, requires_grad=True)).sum().backward())
no_fake = error_of(lambda: torch.library.opcheck(silu_op, (torch.randn(3),), test_utils="test_faketensor"))
Drawing(Code(undeclared.message), Code(no_fake.message))

# %% [markdown]
# Both messages name what is missing, and the call that adds it. Then it is whole:

# %%
silu_op.register_fake(torch.empty_like)
silu_op.register_autograd(RecomputedSiLU.backward, setup_context=save_inputs)
x = torch.randn(3, 4, requires_grad=True)
whole = torch.compile(lambda x: 2 * silu_op(x), backend="aot_eager", fullgraph=True)
(through_compiler,) = torch.autograd.grad(whole(x).sum(), x)
(expected,) = torch.autograd.grad(2 * nn.functional.silu(x).sum(), x)
claim(
    "the Function around a foreign kernel breaks the graph; the operator compiles in one, with the right gradient",
    torch.allclose(through_compiler, expected),
)
verdicts = torch.library.opcheck(silu_op, (x,))
claim("`torch.library.opcheck` passes: schema, gradient, fake kernel, tracing", set(verdicts.values()) == {"SUCCESS"})

# %% [markdown]
# opcheck checks the *registration*, with the tensor that you gave it. What does `check_function` say?

# %%
operator_report = check_function(silu_op, x)
operator_report

# %%
claim(
    "it finds what opcheck did not: the kernel reads memory as it lies, and an expanded tensor has less than it shows",
    not operator_report.ok and operator_report["expanded"].status == "failed",
)


@torch.library.custom_op("blackbelt_lesson::strided_silu", mutates_args=())
def strided_silu(x: torch.Tensor) -> torch.Tensor:
    return foreign_silu(x.contiguous())


strided_silu.register_fake(lambda x: torch.empty_like(x, memory_format=torch.contiguous_format))
strided_silu.register_autograd(RecomputedSiLU.backward, setup_context=save_inputs)
mended_report = check_function(strided_silu, x, compile=True)
claim(
    "with `.contiguous()` in front, and in the fake kernel too, nothing is left, compiled or not",
    mended_report.ok and (mended_report["compile"].status, mended_report["opcheck"].status) == ("passed", "passed"),
)

# %% [markdown]
# ## Katas
#
# Seven. They are judged for their gradients under any incoming gradient, and for what they keep.

# %% kata="reverse_gradient"

# %% kata="stable_softplus"

# %% kata="round_straight_through"

# %% kata="cube"

# %% kata="rms_norm"

# %% kata="linear_cross_entropy"

# %% kata="silu_operator"

# %% [markdown]
# ## In the wild
#
# The forgotten `grad_output`:
#
# - **warp-ctc** ignored it for years; SeanNaren/warp-ctc#170 repaired it when loss scaling came up, "especially when
#   you do multitask learning". **torchtitan**'s chunked cross-entropy did, and worked because every caller in the
#   repository sent in ones: pytorch/torchtitan#3250. ashawkey/stable-dreamfusion#158 is a loss that does not follow the
#   gradient scaler.
#
# Tensors on `ctx`:
#
# - The leak of the output is pytorch/pytorch#25340, and was pytorch/pytorch#5569 before. **DGL** repaired it in
#   dmlc/dgl#1060, **SRU** in asappresearch/sru#171.
# - A saved intermediate that makes the second derivative wrong: pytorch/pytorch#76185 and
#   pytorch/pytorch#104040 ask for an error.
#
# Done well: `linear_cross_entropy` is a kata here and a product in **Liger-Kernel**
# (`LigerFusedLinearCrossEntropyFunction`), which computes the gradients in forward, chunk by chunk, and multiplies them
# by `grad_output` in backward. `torch.utils.checkpoint` with `use_reentrant=True` is a Function, too: its backward runs
# your model a second time.
#
# And a change to know: since PyTorch 2.15 the gradient of `clamp` is 0 at its limits, no longer 1
# (pytorch/pytorch#191142). Where forward has a kink, which derivative to take is a decision.
#
# Read next: *Extending PyTorch* and *Double Backward with Custom Functions* in PyTorch's documentation; its section on
# `torch.func` explains `setup_context` and `vmap`. In lesson 2.4 the incoming gradient is no longer 1: you divide the
# loss, and everything that ignores `grad_output` breaks.

# %%
summary()

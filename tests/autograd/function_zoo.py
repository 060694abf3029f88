"""The zoo: functions with one mistake each, and functions that are right, under the names the tests use.

``meant`` is the same forward in PyTorch's own operators: its gradient, by PyTorch's own autograd, is the oracle.
"""

from __future__ import annotations

import torch

from tests.autograd.function_specimen import (
    Specimen,
    floats,
    matrices,
    one,
    two,
)
from tests.autograd.function_zoo_gradients import (
    AddsDecay,
    BroadcastsToSquare,
    ChokesOnNoGradient,
    ChokesOnNone,
    ClipsGradient,
    ComputesAll,
    DoublePrecisionConstant,
    DropoutInBackward,
    DropsSecondOutput,
    ElementwiseSoftmax,
    ForgotConjugate,
    ForgotTranspose,
    GradientForNumber,
    IgnoresGradOutput,
    MeanOfGradOutput,
    NeedsSwapped,
    NoBackward,
    NoneForWeight,
    OneGradientForTwo,
    PlainWrong,
    RaisesInBackward,
    TransposedShape,
    WritesToGradOutput,
    WritesToSaved,
    WrongFactor,
    WrongOrder,
    WrongSign,
)
from tests.autograd.function_zoo_memory import (
    BorrowsInput,
    Counter,
    DetachesHalf,
    DetachesInBackward,
    DetachesOneInput,
    IndexOnContext,
    InputOnContext,
    KeptInList,
    NoGradInBackward,
    OutputOnContext,
    OutputOnContextUnused,
    ReadsStorageOrder,
    ReducesNothing,
    SavesIntermediates,
    ViewsGradOutput,
    ViewsInput,
    WritesThroughData,
    WritesToInput,
    WrongJvp,
    WrongVmap,
    relu,
    through_numpy,
)
from tests.autograd.function_zoo_operators import (
    cube,
    ignores,
    no_fake,
    unregistered,
)
from tests.autograd.function_zoo_right import (
    ComplexSquare,
    CustomVmap,
    DoubleInPlace,
    Dropout,
    Gather,
    LinearOptionalBias,
    OnceDifferentiable,
    Rounds,
    SameObject,
    SavesOutput,
    SinCos,
    Sine,
    Sort,
)

WRONG = {
    "ignores grad_output": Specimen(
        IgnoresGradOutput, one, "ignores grad_output", "grad_output", meant=lambda x: x * x
    ),
    "a custom operator that ignores grad_output": Specimen(
        ignores, one, "ignores grad_output", "grad_output", meant=lambda x: x * x
    ),
    "inside a larger function": Specimen(
        lambda x: IgnoresGradOutput.apply(x.sin()).sum(), one, "ignores grad_output", "grad_output"
    ),
    "weight decay in backward": Specimen(AddsDecay, one, "not linear in grad_output", "grad_output"),
    "clipping in backward": Specimen(ClipsGradient, one, "not linear in grad_output", "grad_output"),
    "mean of grad_output": Specimen(
        MeanOfGradOutput, one, "uses only the sum of grad_output", "gradcheck", meant=lambda x: x * x
    ),
    "writes to grad_output": Specimen(WritesToGradOutput, one, "changes grad_output", "backward leaves alone"),
    "writes to what it saved": Specimen(WritesToSaved, one, "changes a saved tensor", "backward leaves alone"),
    "dropout drawn in backward": Specimen(DropoutInBackward, one, "backward is random", "backward repeats"),
    "None for an unused output": Specimen(ChokesOnNone, one, "cannot take None", "unused outputs"),
    "too few gradients": Specimen(
        OneGradientForTwo, lambda: (floats(2, 3), 3), "wrong number of gradients", "backward"
    ),
    "None for the weight": Specimen(NoneForWeight, two, "None for an input that needs a gradient", "backward"),
    "gradient for a number": Specimen(
        GradientForNumber, lambda: (3, floats(2, 3)), "gradient for an argument that is no tensor", "backward"
    ),
    "None for its only output": Specimen(ChokesOnNoGradient, one, "cannot take None", "unused outputs"),
    "transposed gradient": Specimen(TransposedShape, one, "gradient of the wrong shape", "backward"),
    "gradient broadcast and summed": Specimen(
        BroadcastsToSquare, lambda: (floats(3),), "gradient summed silently", "gradient shapes", meant=lambda x: x * x
    ),
    "float64 constant": Specimen(
        DoublePrecisionConstant, one, "gradient in a wider dtype", "gradient dtypes", "warned"
    ),
    "raises in backward": Specimen(RaisesInBackward, one, "backward raises", "backward"),
    "no backward": Specimen(NoBackward, one, "no backward", "backward"),
    "operator without autograd": Specimen(unregistered, one, "no backward", "backward"),
    "wrong sign": Specimen(WrongSign, one, "wrong sign", "gradcheck", meant=torch.cos),
    "wrong factor": Specimen(WrongFactor, one, "wrong factor", "gradcheck", meant=lambda x: x**3),
    "wrong order": Specimen(WrongOrder, two, "gradients in the wrong order", "gradcheck", meant=torch.mul),
    "forgot the transpose": Specimen(ForgotTranspose, matrices, "transposed Jacobian", "gradcheck", meant=torch.matmul),
    "softmax as if elementwise": Specimen(
        ElementwiseSoftmax, one, "drops the terms between elements", "gradcheck", meant=lambda x: x.softmax(-1)
    ),
    "second output dropped": Specimen(
        DropsSecondOutput,
        one,
        "drops the gradient of an output",
        "gradcheck",
        meant=lambda x: (x * 2, x * x),
    ),
    "another wrong gradient": Specimen(PlainWrong, one, "wrong gradient", "gradcheck", meant=torch.nn.functional.silu),
    "forgot the conjugate": Specimen(
        ForgotConjugate,
        lambda: (torch.complex(*(floats(3, seed=s, requires_grad=False) for s in (0, 1))).requires_grad_(),),
        "missing conjugate",
        "gradcheck",
        meant=lambda x: x * x,
    ),
    "needs_input_grad swapped": Specimen(NeedsSwapped, two, "assumes every input needs a gradient", "needs_input_grad"),
    "gradients for nobody": Specimen(ComputesAll, matrices, "needless gradient", "needs_input_grad", "warned"),
    "input on ctx": Specimen(InputOnContext, one, "input saved on ctx", "saved tensors"),
    "index on ctx": Specimen(
        IndexOnContext, lambda: (floats(4, 2), torch.tensor([1, 3, 3])), "input saved on ctx", "saved tensors"
    ),
    "output on ctx": Specimen(OutputOnContext, one, "output saved on ctx", "saved tensors"),
    "output on ctx, its values unused": Specimen(OutputOnContextUnused, one, "output saved on ctx", "saved tensors"),
    "ctx in a list": Specimen(KeptInList, one, "never freed", "saved tensors"),
    "writes to its input": Specimen(WritesToInput, one, "changes an input", "inputs kept"),
    "writes through .data": Specimen(WritesThroughData, one, "changes an input", "inputs kept"),
    "NumPy inside": Specimen(through_numpy, one, "output has no graph", "backward"),
    "a counter in forward": Specimen(Counter, one, "forward is random", "forward"),
    "detach in backward": Specimen(DetachesInBackward, one, "double backward is cut off", "double backward"),
    "no_grad in backward": Specimen(NoGradInBackward, one, "double backward is cut off", "double backward"),
    "intermediates saved": Specimen(SavesIntermediates, one, "double backward is cut off", "double backward"),
    "one of two inputs detached": Specimen(DetachesOneInput, two, "double backward is cut off", "double backward"),
    "half of it detached": Specimen(DetachesHalf, one, "double backward is wrong", "double backward"),
    "wrong jvp": Specimen(WrongJvp, one, "wrong jvp", "jvp"),
    "wrong vmap": Specimen(WrongVmap, one, "wrong under vmap", "vmap"),
    "reads storage order": Specimen(ReadsStorageOrder, one, "assumes contiguous inputs", "non-contiguous"),
    "view of the input": Specimen(ViewsInput, one, "assumes contiguous inputs", "non-contiguous"),
    "view of grad_output": Specimen(ViewsGradOutput, one, "assumes a contiguous grad_output", "non-contiguous"),
    "borrows its input": Specimen(BorrowsInput, one, "fails on expanded inputs", "expanded"),
    "amax of nothing": Specimen(ReducesNothing, one, "fails on empty inputs", "zero-size"),
    "a kink": Specimen(relu, lambda: (torch.tensor([0.0, 1.0, -1.0], requires_grad=True),), "at a kink", "gradcheck"),
    "operator without a fake": Specimen(no_fake, one, "opcheck fails", "opcheck"),
}


RIGHT = {
    "every mode": Specimen(Sine, one, meant=torch.sin),
    "a non-differentiable output": Specimen(Sort, one, meant=lambda x: x.sort(-1)[0]),
    "in place with mark_dirty": Specimen(DoubleInPlace, one, meant=lambda x: x * 2),
    "once_differentiable": Specimen(OnceDifferentiable, one, meant=lambda x: x**3),
    "optional input given": Specimen(
        LinearOptionalBias,
        lambda: (floats(4, 3), floats(2, 3, seed=1), floats(2, seed=2), 0.5),
        meant=lambda x, w, b, s: s * (x @ w.mT) + b,
    ),
    "optional input absent": Specimen(
        LinearOptionalBias,
        lambda: (floats(4, 3), floats(2, 3, seed=1), None, 0.5),
        meant=lambda x, w, b, s: s * (x @ w.mT),
    ),
    "two outputs": Specimen(SinCos, one, meant=lambda x: (x.sin(), x.cos())),
    "an integer input": Specimen(
        Gather, lambda: (floats(4, 2), torch.tensor([0, 3, 3])), meant=lambda table, index: table[index]
    ),
    "complex": Specimen(
        ComplexSquare,
        lambda: (torch.complex(*(floats(3, seed=s, requires_grad=False) for s in (0, 1))).requires_grad_(),),
        meant=lambda x: x * x,
    ),
    "returns its input": Specimen(SameObject, one, meant=lambda x: x * 1),
    "dropout with its mask": Specimen(Dropout, one),
    "saves its output": Specimen(SavesOutput, one, meant=torch.exp),
    "None for a zero derivative": Specimen(Rounds, one, meant=torch.round),
    "a vmap rule of its own": Specimen(CustomVmap, one, meant=lambda x: x.cumsum(0)),
    "a custom operator": Specimen(cube, lambda: (floats(2, 3), 0.5), meant=lambda x, s: s * x**3),
    "an operator overload": Specimen(torch.ops.blackbelt_zoo.cube.default, lambda: (floats(2, 3), 0.5)),
    "apply itself": Specimen(Sine.apply, one, meant=torch.sin),
    "a function that uses one": Specimen(lambda x: Sine.apply(x).square(), one, meant=lambda x: x.sin().square()),
    "a module": Specimen(torch.nn.Linear(3, 2), one),
    "a module that changes its buffers": Specimen(torch.nn.BatchNorm1d(3, affine=False), lambda: (floats(5, 3),)),
    "softmax": Specimen(torch.softmax, lambda: (floats(2, 3), -1)),
    "matmul": Specimen(torch.matmul, matrices),
    "layer_norm": Specimen(torch.nn.functional.layer_norm, lambda: (floats(2, 3), (3,))),
    "svdvals": Specimen(torch.linalg.svdvals, lambda: (floats(3, 2),)),
    "a scalar": Specimen(torch.exp, lambda: (floats(),)),
    "in place, built in": Specimen(torch.Tensor.exp_, one),
}

"""The things that can be wrong with a function's derivative, each under a short stable key."""

from __future__ import annotations

CAUSES: dict[str, str] = {
    # The forward pass
    "forward raises": "The forward pass itself raises an exception.",
    "returns no tensor": "The result holds no tensor, so there is nothing to differentiate.",
    "forward is random": "Two calls with the same seed give different values.",
    "changes an input": "Forward writes to an input and does not mark it as dirty: the caller's graph does not know.",
    "output has no graph": "No output requires grad although an input does.",
    # The shape of the answer
    "no backward": "There is no backward formula: no `backward`, or no `register_autograd` for a custom operator.",
    "backward raises": "The backward pass raises an exception.",
    "wrong number of gradients": "Backward does not return one value for each argument of forward.",
    "gradient for an argument that is no tensor": "Backward returns a tensor where None belongs.",
    "gradient of the wrong shape": "A gradient has not the shape of its input, and the engine refuses it.",
    "gradient summed silently": "A gradient is larger than its input, and the engine sums it: a wrong value, no error.",
    "gradient in a wider dtype": "A gradient has more bytes per element than its input; the engine casts it back.",
    "None for an input that needs a gradient": "Backward returns None for an input that the output depends on.",
    # What backward does with what it is given
    "ignores grad_output": "The gradient does not change when the incoming gradient does.",
    "not linear in grad_output": "Twice the incoming gradient does not give twice the gradient.",
    "changes grad_output": "Backward writes to the incoming gradient, which belongs to others too.",
    "changes a saved tensor": "Backward writes to a tensor it saved: the second backward sees another one.",
    "backward is random": "Two backward passes over the same graph give different gradients.",
    "cannot take None": "An unused output arrives as None, and backward computes with it.",
    "assumes every input needs a gradient": "Backward fails, or is wrong, when only some inputs require grad.",
    "needless gradient": "Backward computes gradients that nobody asked for.",
    # What is kept between forward and backward
    "input saved on ctx": "An input is an attribute of ctx: a later change goes unseen, and the gradient is wrong.",
    "output saved on ctx": "An output is an attribute of ctx: a change goes unseen, and the graph is never freed.",
    "change goes unseen": "A value is kept without its version (`.data`, NumPy): a later in-place change goes unseen.",
    "never freed": "The graph stays alive after the last reference to the output is gone.",
    # The value
    "wrong sign": "The gradient is the negative of the true one.",
    "wrong factor": "The gradient is the true one times a constant.",
    "gradients in the wrong order": "The gradient of one input is returned for another.",
    "transposed Jacobian": "Backward multiplies by the Jacobian where its transpose belongs.",
    "drops the gradient of an output": "What comes in through one of the outputs has no effect.",
    "uses only the sum of grad_output": "Backward reduces the incoming gradient to its sum or mean.",
    "drops the terms between elements": "Backward treats a function that mixes elements as if it were elementwise.",
    "missing conjugate": "A complex gradient is multiplied by the derivative, and not by its conjugate.",
    "wrong gradient": "The gradient is not the derivative of forward.",
    "at a kink": "Forward has no derivative at this input, so no backward can be judged there.",
    # Derivatives of derivatives, and other modes
    "double backward is cut off": "The gradient has no graph: a second derivative through it is silently zero.",
    "double backward is wrong": "The second derivative is not the derivative of the first.",
    "forward mode is silently zero": "Under forward mode the output has no tangent, and nothing raises.",
    "wrong jvp": "Forward mode and backward mode give different derivatives.",
    "wrong under vmap": "vmap over the function gives something else than a loop.",
    "wrong under autocast": "Under autocast the gradient is not near the one without it.",
    # Memory layout and size
    "assumes contiguous inputs": "The same values with other strides give another result, or an error.",
    "assumes a contiguous grad_output": "A transposed or expanded incoming gradient gives a wrong one, or an error.",
    "fails on expanded inputs": "An input with stride 0 gives another result than its contiguous copy.",
    "fails on empty inputs": "Forward takes an input of no elements, and backward does not.",
    # Compilers and registration
    "wrong when compiled": "torch.compile(fullgraph=True) gives other values or gradients than eager.",
    "does not compile": "torch.compile(fullgraph=True) refuses the function.",
    "opcheck fails": "torch.library.opcheck finds the operator's registration wrong.",
}

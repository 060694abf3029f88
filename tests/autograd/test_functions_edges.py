"""check_function at its edges: bad input, what it must leave alone, and what compiling adds."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from blackbelt import check_function
from blackbelt.autograd.functions import FunctionReport
from tests.autograd.function_specimen import Specimen, floats
from tests.autograd.function_zoo import RIGHT, WRONG
from tests.autograd.function_zoo_memory import Counter, InputOnContext, KeptInList
from tests.autograd.function_zoo_operators import cube
from tests.autograd.function_zoo_right import Sine


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads for five rows cost 100 ms a call where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- Inputs that need care --------------------------------------------------------------------------------------------


def test_float32_inside_is_compared_roughly():
    def half(x):
        return x.sin() + (x.float() ** 2).to(x.dtype)

    report = check_function(half, floats(4))
    assert report.ok
    assert "roughly" in report["gradcheck"].sentence
    assert any("less than float64 inside" in note for note in report.notes)

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x.float() ** 2).to(x.dtype)

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * x

    assert check_function(Wrong, floats(4)).cause == "wrong gradient"


def test_values_that_the_function_refuses_are_not_blamed_on_strides():
    matrix = (torch.eye(3) + 0.1).requires_grad_()  # its rows, all the same, are singular
    assert check_function(torch.linalg.inv, matrix)["expanded"].status == "passed"


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_inputs_of_no_elements(shape):
    report = check_function(Sine, torch.empty(shape, requires_grad=True))
    assert report.ok, str(report)
    assert report["gradcheck"].status == "skipped"


@pytest.mark.skipif(not hasattr(torch.autograd.Function, "boxed_grads_call"), reason="new in a later torch")
def test_gradients_in_a_list_and_saved_tensors_read_once():
    class Boxed(torch.autograd.Function):
        boxed_grads_call = True
        clear_saved_tensors_on_access = True

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grads):
            (x,) = ctx.saved_tensors
            return grads.pop() * 2 * x

    report = check_function(Boxed, floats(3))
    assert report.ok, str(report)
    assert report["gradcheck"].status == "passed"
    assert report["gradient shapes"].status == "passed"

    class Wrong(Boxed):
        @staticmethod
        def backward(ctx, grads):
            (x,) = ctx.saved_tensors
            return grads.pop() * x

    assert check_function(Wrong, floats(3)).cause == "wrong gradient"


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "inputs", "kind", "words"),
    [
        (3, (floats(2),), TypeError, "got 3 of type int as the function"),
        (floats(2), (Sine,), TypeError, "Pass the function first"),
        (nn.Linear, (floats(2),), TypeError, "the class Linear, which is no torch.autograd.Function"),
        (Sine, (), ValueError, "got no tensor among the inputs of Sine"),
        (Sine, (3.0,), ValueError, r"inputs: float\); a gradient needs one"),
        (Sine, (torch.arange(3),), ValueError, r"can have a gradient \(dtypes: torch.int64\)"),
        (Sine, (torch.randn(3),), ValueError, "none of the inputs of Sine requires grad"),
        (Sine, (torch.randn(3, device="meta", requires_grad=True),), ValueError, "input 0 is on the meta device"),
        (Sine, (torch.eye(3).to_sparse().requires_grad_(),), ValueError, r"Pass x.to_dense\(\)"),
    ],
)
def test_bad_input(fn, inputs, kind, words):
    with pytest.raises(kind, match=words):
        check_function(fn, *inputs)


def test_subclasses_are_refused_by_name():
    with FakeTensorMode():
        fake = torch.randn(3, requires_grad=True)
    with pytest.raises(TypeError, match="input 0 is a FakeTensor"):
        check_function(Sine, fake)

    class Mine(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="input 0 is a Mine"):
        check_function(Sine, torch.randn(3).as_subclass(Mine).requires_grad_())


def test_a_distributed_tensor_is_pointed_to_its_shard():
    class DTensor(torch.Tensor):
        """Stands in for torch.distributed's: what is refused is its type, and named is its method."""

    with pytest.raises(TypeError, match=r"input 1 is a DTensor.*its own shard: x\.to_local\(\)"):
        check_function(torch.mul, floats(3), torch.randn(3).as_subclass(DTensor))


def test_inside_a_transform_is_refused():
    def inside(x):
        check_function(Sine, x)
        return x

    with pytest.raises(ValueError, match=r"inside a torch.func transform"):
        torch.func.vmap(inside)(torch.randn(2, 3))


def test_compile_takes_a_flag_or_a_backend():
    with pytest.raises(TypeError, match=r"compile is 1\.5; it takes True, False or the name of a backend"):
        check_function(Sine, floats(3), compile=1.5)


def test_an_unknown_check_is_asked_for():
    with pytest.raises(KeyError, match="'gradchek' is no check of this report; it has: forward"):
        check_function(Sine, floats(3))["gradchek"]


# --- Nothing is left behind -------------------------------------------------------------------------------------------


def test_inputs_gradients_and_random_state_stay():
    x = floats(2, 3).requires_grad_()
    x.grad = torch.ones(2, 3)
    value, version = x.detach().clone(), x._version
    torch.manual_seed(5)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()

    intruders = ("writes to its input", "writes through .data", "writes to what it saved", "borrows its input")

    def noisy(x):
        np.random.rand()
        random.random()
        return nn.functional.dropout(x, 0.5)

    for fn in (Sine, noisy, torch.Tensor.exp_, KeptInList, Counter, *(WRONG[name].fn for name in intruders)):
        check_function(fn, x)
    assert torch.equal(x, value)
    assert x._version == version
    assert torch.equal(x.grad, torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert random.getstate() == python_state
    KeptInList.calls.clear()
    Counter.calls = 0


def test_a_module_keeps_its_parameters_and_buffers():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    report = check_function(module, floats(5, 3))
    assert report.ok, str(report)
    assert "0.weight (4, 3)" in report.inputs
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in module.parameters())


def test_grad_mode_of_the_caller_does_not_matter_and_stays():
    x = floats(3)
    with torch.no_grad():
        assert check_function(Sine, x).ok
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert check_function(Sine, x).ok
        assert torch.is_inference_mode_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert check_function(torch.matmul, floats(2, 2), floats(2, 2, seed=1)).ok
        assert torch.is_autocast_enabled("cpu")


def test_the_class_is_left_as_it_was():
    before = dict(vars(InputOnContext))
    check_function(InputOnContext, floats(3))
    assert dict(vars(InputOnContext)) == before


def test_the_plain_path_does_not_import_dynamo():
    program = (
        "import sys, torch\nfrom blackbelt import check_function\n"
        "report = check_function(torch.sin, torch.randn(3, requires_grad=True))\n"
        "assert report.ok and report['vmap'].status == 'passed'\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- Compiling --------------------------------------------------------------------------------------------------------


def differs_when_compiled(x):
    return x * (2 if torch.compiler.is_compiling() else 3)


def branches_on_a_value(x):
    return x * 2 if x.sum().item() > 0 else x * 3


@pytest.fixture(scope="module")
def compiled() -> dict[str, FunctionReport]:
    specimens = {
        "right": RIGHT["two outputs"],
        "in place": RIGHT["in place with mark_dirty"],
        "operator": RIGHT["a custom operator"],
        "ignores": WRONG["ignores grad_output"],
        "jvp": RIGHT["every mode"],
        "differs": Specimen(differs_when_compiled, lambda: (floats(3),)),
        "refuses": Specimen(branches_on_a_value, lambda: (floats(3),)),
    }
    return {name: check_function(s.fn, *s.inputs(), compile=True) for name, s in specimens.items()}


@pytest.mark.parametrize("name", ["right", "operator", "ignores"])
def test_compiled_agrees_with_eager(compiled, name):
    assert compiled[name]["compile"].status == "passed", str(compiled[name])
    assert "aot_eager" in compiled[name]["compile"].sentence


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo itself reads it, of a non-leaf
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo of torch 2.9 itself
def test_in_place_on_an_input_is_judged_as_a_comparison_by_hand_judges_it(compiled):
    """On torch 2.15 the compiled gradient of a Function that marks a graph input dirty is another one than eager's."""
    apply = RIGHT["in place with mark_dirty"].fn.apply

    def in_place(x):
        return apply(x)

    leaf = floats(2, 3)
    incoming = torch.arange(6.0).view(2, 3)
    eager, other = (
        torch.autograd.grad(call(leaf.clone()), leaf, incoming)[0]
        for call in (apply, torch.compile(in_place, backend="aot_eager"))
    )
    check = compiled["in place"]["compile"]
    if check.status != "not supported":
        assert (check.status == "passed") == torch.equal(eager, other)


def test_opcheck_tests_compilation_where_asked(compiled):
    assert compiled["operator"]["opcheck"].status == "passed"
    assert "aot_dispatch_dynamic" in compiled["operator"]["opcheck"].sentence
    assert "aot_dispatch_dynamic" not in check_function(cube, floats(3), 1.0)["opcheck"].sentence


def test_another_result_when_compiled(compiled):
    assert compiled["differs"].cause == "wrong when compiled"


def test_a_refusal_to_compile_is_said_with_its_reason(compiled):
    check = compiled["refuses"]["compile"]
    assert (check.status, check.cause) == ("not supported", "does not compile")
    assert "data-dependent" in check.evidence or "item" in check.evidence
    assert check.evidence.splitlines()[0] in str(compiled["refuses"])


def test_many_checks_do_not_reach_dynamos_limit_of_recompilations(compiled):
    for scale in range(10):
        report = check_function(lambda x, scale=scale: x * scale, floats(3), compile="eager")
        assert report["compile"].status == "passed", str(report)

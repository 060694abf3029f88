"""The judge: statuses, the smallest failing input, the known mistake, and what learners may do to it."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.kata import load_kata
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from tests.dojo.exercise import kata_of, make_kata


def test_a_right_answer_passes_and_says_how_much_was_tried():
    kata = make_kata()
    report = grade(kata, lambda matrix: matrix.permute(1, 0))
    assert report.passed
    assert report.num_cases > 40
    assert "every law holds" in str(report)


def test_the_stub_is_open_but_torch_s_own_not_implemented_error_is_not():
    def stub(matrix):
        raise NotImplementedError("your turn")

    def unsupported(matrix):
        raise NotImplementedError("Could not run 'aten::sparse'")

    assert grade(make_kata(), stub).status == "open"
    assert grade(make_kata(), unsupported).status == "failed"


def test_a_known_mistake_hears_its_sentence_and_sees_what_was_observed():
    report = grade(make_kata(), lambda matrix: matrix.clone().t())
    assert (report.mistake, report.sentence, report.law) == ("copied", "This copies", "SharesMemory")
    assert "The result is a copy" in str(report)


def test_the_same_mistake_is_known_by_another_order_of_keys_and_another_object():
    def answer(matrix):
        return {"rows": len(matrix), "columns": matrix.shape[1], "kept": object}

    kata = kata_of(answer, [Value()], torch.ones(2, 3))

    @kata.wrong("These are the columns.")
    def swapped(matrix):
        return {"rows": matrix.shape[1], "columns": len(matrix), "kept": object()}

    report = grade(kata, lambda matrix: {"kept": object(), "columns": len(matrix), "rows": matrix.shape[1]})
    assert report.mistake == "swapped"


def test_two_errors_of_one_type_are_one_mistake_only_where_their_words_begin_alike():
    kata = make_kata()

    @kata.wrong("It multiplies where it should turn.")
    def multiplied(matrix):
        return matrix @ matrix.new_ones(99, 1)

    assert grade(kata, lambda matrix: matrix.mm(matrix.new_ones(99, 2))).mistake == "multiplied"
    assert grade(kata, lambda matrix: matrix.view(-1, 97)).mistake == ""


def test_two_crashes_under_a_law_are_one_mistake_only_where_they_are_alike():
    kata = kata_of(lambda x: x * x, [SameGradients()], torch.ones(2, requires_grad=True))

    def with_hook(x, hook):
        y = x * x
        y.register_hook(hook)
        return y

    @kata.wrong("It divides by zero in backward.")
    def divides(x):
        return with_hook(x, lambda _: 1 / 0)

    assert grade(kata, lambda x: with_hook(x, lambda grad: grad * (1 / 0))).mistake == "divides"
    assert grade(kata, lambda x: with_hook(x, lambda _: {}["no such key"])).mistake == ""


def test_a_gradient_that_was_there_before_is_left_alone():
    leaf = torch.ones(2, 2, requires_grad=True)
    leaf.grad = torch.ones(2, 2)

    def adds_to_it(matrix):
        matrix.sum().backward()
        return matrix.detach().t()

    assert grade(kata_of(lambda matrix: matrix.detach().t(), [], leaf), adds_to_it).sentence == (
        "It changed its argument 0 (`.grad`)"
    )


def test_grading_computes_on_one_thread_and_puts_the_number_back():
    seen = []

    def counting(matrix):
        seen.append(torch.get_num_threads())
        return matrix.t()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert grade(make_kata(), counting).passed
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unknown_mistake_hears_the_law():
    report = grade(make_kata(), lambda matrix: matrix.t() * 2)
    assert report.mistake == ""
    assert report.law == "Value"
    assert "is off by" in report.sentence


def test_the_failing_input_is_shrunk():
    def wrong_from_three_columns(matrix):
        return matrix.t() + (1 if matrix.shape[1] >= 3 and matrix.shape[0] else 0)

    kata = make_kata(laws=(Value(),))
    kata.edge_cases = dict  # only generated cases
    report = grade(kata, wrong_from_three_columns)
    assert report.given.startswith("matrix = tensor of shape (1, 3)")


def test_expected_and_got_stand_in_the_report_and_it_serializes():
    report = grade(make_kata(), lambda matrix: matrix)
    assert report.expected.startswith("tensor of shape")
    assert report.got.startswith("tensor of shape")
    assert json.loads(json.dumps(report.to_dict()))["status"] == "failed"
    assert all(len(line) <= 80 for line in str(report).splitlines())
    assert "<table" in report._repr_html_()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda _: None, "The result is None; a torch.Tensor was expected"),
        (lambda matrix: matrix.numpy().T, "The result is a numpy.ndarray; a torch.Tensor was expected"),
        (lambda matrix: matrix.t() * float("nan"), "NaN or infinite values where finite ones were expected"),
        (lambda matrix: matrix.t().double(), "dtype torch.float64; torch.float32 was expected"),
        (lambda matrix: matrix.t().as_subclass(type("Mine", (torch.Tensor,), {})), "a torch.Tensor was expected"),
        (lambda matrix: matrix.add_(1).t(), "It changed its argument 0 (values)"),
        (lambda matrix: matrix.nope(), "It raised AttributeError: 'Tensor' object has no attribute 'nope'"),
        (lambda _: sys.exit(0), "It raised SystemExit: 0"),
        (lambda: None, "It raised TypeError"),
    ],
)
def test_bad_answers_are_told_what_they_are(answer, sentence):
    report = grade(make_kata(), answer)
    assert report.status == "failed"
    assert sentence in report.sentence


def test_endless_recursion_is_an_answer():
    def endless(matrix):
        return endless(matrix)

    assert "RecursionError" in grade(make_kata(), endless).sentence


def test_global_state_that_changed_is_named_and_put_back():
    def careless(matrix):
        torch.set_default_dtype(torch.float64)
        torch.rand(1)
        return matrix.t()

    report = grade(make_kata(), careless)
    assert "the default dtype" in report.sentence
    assert "torch's random number generator" in report.sentence
    assert torch.get_default_dtype() is torch.float32


def test_grading_leaves_the_callers_random_state_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    grade(make_kata(), lambda matrix: matrix.t().contiguous())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert states[2] == random.getstate()


def test_a_patched_comparison_is_no_pass_and_is_put_back():
    original = torch.equal

    def cheat(matrix):
        torch.equal = lambda *_: True
        return matrix.t()

    report = grade(make_kata(), cheat)
    assert report.status == "failed"
    assert "torch.equal" in report.sentence
    assert torch.equal is original


def test_where_the_reference_raises_the_answer_must_raise_the_same():
    def halves(number):
        if number % 2:
            raise ValueError("odd")
        return number // 2

    kata = kata_of(halves, [Value()], 3)
    assert grade(kata, halves).passed
    assert grade(kata, lambda _: 1).sentence == "It should raise ValueError here"


def test_arguments_meant_to_change_are_compared_with_the_reference():
    kata = kata_of(lambda tensor: tensor.mul_(2).sum(), [Value()], torch.ones(3), changes=(0,))
    assert grade(kata, lambda tensor: tensor.add_(1).sum()).passed
    assert "argument 0 after the call" in grade(kata, lambda tensor: (tensor * 2).sum()).sentence.lower()


def test_something_that_is_not_a_function():
    report = grade(make_kata(), 3)
    assert report.sentence == "`turned` is 'int', not a function"


def test_a_mistake_is_recognized_beside_another_one():
    """The trap of lesson 1.1, written as a learner writes it: it also raises the wrong error elsewhere."""
    kata = load_kata("squared_error")
    report = grade(kata, lambda prediction, target: ((prediction - target) ** 2).mean())
    assert report.mistake == "_trapped"
    assert "every prediction against every target" in report.sentence


def test_a_yes_for_a_no_alone_is_not_taken_for_a_known_mistake():
    kata = kata_of(lambda number: number > 2, [Value()], 3)
    kata.edge_cases = lambda: {str(number): (number,) for number in (3, 4, 5, 1)}

    @kata.wrong("Only three.")
    def only_three_fails(number):
        return number > 3

    assert grade(kata, only_three_fails).mistake == "only_three_fails"
    assert grade(kata, lambda _: False).mistake == ""


def test_a_variable_number_of_arguments_is_shown_as_one_tuple():
    report = grade(load_kata("broadcast_shape"), lambda *shapes: max(shapes, default=()))
    assert report.given.startswith("shapes = (")

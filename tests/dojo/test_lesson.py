"""What a lesson calls: claims, predictions, errors read, the ledger, the summary."""

from __future__ import annotations

import json

import pytest
import torch

from blackbelt import begin, check, claim, error_of, predict, summary
from blackbelt.dojo import lesson
from blackbelt.dojo.progress import open_progress


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    path = tmp_path / "ledger.json"
    monkeypatch.setenv("BLACKBELT_LEDGER", str(path))
    begin("tensors/strides")
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_claims_are_written_as_they_are_made(ledger, capsys):
    claim("two is two", True, figures={"two": 2, "half": 0.123456})
    assert [item["status"] for item in read(ledger)["claims"]] == ["shown"]
    assert "two = 2, half = 0.1235" in capsys.readouterr().out
    claim("two is three", lambda: False)
    found = read(ledger)
    assert [item["status"] for item in found["claims"]] == ["shown", "false"]
    assert found["torch_version"] == torch.__version__
    assert found["lesson"] == "tensors/strides"
    assert {"date", "python", "device"} <= set(found)
    assert "FALSE here: two is three" in capsys.readouterr().out


def test_a_claim_that_needs_absent_hardware_is_not_evaluated(ledger, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    claim("twice as fast", lambda: pytest.fail("evaluated"), needs="cuda")
    assert read(ledger)["claims"][0]["status"] == "not shown here"
    assert "Not shown here (needs cuda)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'cuda' is what a claim may need"):
        claim("x", True, needs="quantum")


def test_a_tensor_condition_counts_as_its_truth(ledger):
    claim("a tensor says no", torch.tensor(False))
    assert read(ledger)["claims"][0]["status"] == "false"


def test_a_right_and_a_wrong_prediction(ledger, capsys):
    guess = predict("Which?", {"A": "this", "B": "that"}, answer="A")
    guess.settle("B", because={"A": "Because you thought so."})
    assert "You said A; it is B: that" in (out := capsys.readouterr().out)
    assert "Because you thought so." in out
    predict("And now?", {"A": "this", "B": "that"}, answer="B").settle("B", because={"A": "no"})
    assert "You predicted it" in capsys.readouterr().out
    with open_progress() as progress:
        assert [bool(item.right) for item in progress.predictions("tensors/strides")] == [False, True]


def test_an_unanswered_prediction_is_settled_without_a_verdict(ledger, capsys):
    predict("Which?", {"A": "this", "B": "that"}).settle("A", because={"B": "no"})
    assert "you made no prediction" in capsys.readouterr().out
    assert read(ledger)["predictions"][0]["answer"] is None


def test_a_settled_prediction_takes_no_new_answer():
    guess = predict("Which?", {"A": "this", "B": "that"}, answer="A")
    guess.settle("A", because={"B": "no"})
    guess.choose("B")
    assert guess.answer == "A"


def test_predictions_refuse_nonsense():
    with pytest.raises(ValueError, match="'C' is not one of the options A, B"):
        predict("Which?", {"A": "this", "B": "that"}, answer="C")
    with pytest.raises(ValueError, match="every wrong one needs its reason"):
        predict("Which?", {"A": "this", "B": "that"}).settle("A", because={})
    with pytest.raises(ValueError, match="settle\\(\\) got 'Z'"):
        predict("Which?", {"A": "this", "B": "that"}).settle("Z", because={"A": "", "B": ""})


def test_error_of_keeps_the_words_and_insists_on_an_error():
    report = error_of(lambda: torch.zeros(2, 3).view(7))
    assert report.type_name == "RuntimeError"
    assert "is invalid for input of size 6" in str(report)
    with pytest.raises(ValueError, match="an exception was expected"):
        error_of(torch.zeros, 3)


def test_check_records_and_headless_does_not(capsys, monkeypatch):
    from blackbelt.dojo import catalog

    name = catalog.katas()[0].name
    namespace: dict[str, object] = {}
    exec(f"def {name}(*arguments): return None", namespace)
    check(namespace[name])
    with open_progress() as progress:
        assert [attempt.passed for attempt in progress.attempts(name)] == [False]
    monkeypatch.setenv("BLACKBELT_HEADLESS", "1")
    check(namespace[name])
    with open_progress() as progress:
        assert len(progress.attempts(name)) == 1
    summary()
    assert f"`{name}`" in capsys.readouterr().out


def test_check_refuses_what_is_no_function():
    with pytest.raises(TypeError, match="pass the function itself"):
        check(3)
    with pytest.raises(ValueError, match="there is no kata named 'ones'"):
        check(torch.ones)


def test_summary_counts(capsys):
    claim("yes", True)
    claim("no", False)
    capsys.readouterr()
    summary()
    out = capsys.readouterr().out
    assert "1 claims shown, 0 not shown here, 1 false" in out
    assert "◀" in out
    assert lesson._summary().to_dict()["claims"][1]["status"] == "false"


def test_a_result_that_cannot_be_saved_is_still_shown(capsys, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("BLACKBELT_HOME", str(blocked))
    predict("Which?", {"A": "this", "B": "that"}, answer="A").settle("A", because={"B": "no"})
    out = capsys.readouterr().out
    assert "You predicted it" in out
    assert "not saved" in out


def test_a_function_patched_since_the_lesson_began_is_no_pass(capsys, monkeypatch):
    from blackbelt.dojo import catalog

    entry = catalog.katas()[0]
    namespace: dict[str, object] = {}
    exec(entry.solution, namespace)
    original = torch.equal
    monkeypatch.setattr(torch, "equal", lambda *_: True)
    check(namespace[entry.name])
    out = capsys.readouterr().out
    assert f"{entry.name} failed" in out
    assert "`torch.equal`" in out
    assert torch.equal is original
    check(namespace[entry.name])
    assert f"{entry.name} passed" in capsys.readouterr().out

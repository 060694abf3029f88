"""`blackbelt doctor` on scripts that do everything but train quietly to their end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from typer.testing import CliRunner

from blackbelt.cli._application import application

BROADCAST = """
import os, sys, torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(8, 3), torch.randn(8)
for step in range({steps}):
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
    {then}
"""


@pytest.fixture
def script(tmp_path):
    def write(text, **words):
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(text.format(**words) if words else text), encoding="utf-8")
        return str(path)

    return write


def doctor(*arguments):
    return CliRunner().invoke(application("doctor"), ["doctor", *arguments])


def real(*arguments, **options):
    command = [sys.executable, "-m", "blackbelt", "doctor", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_script_that_is_not_there():
    result = doctor("no_such.py")
    assert result.exit_code == 2 and "no_such.py is no file" in result.output


def test_no_script():
    result = doctor()
    assert result.exit_code == 2 and "name the script" in result.output


def test_an_unknown_rule(script):
    result = doctor("--select", "BB999", script("pass"))
    assert result.exit_code == 2 and "BB999" in result.output and "--rules" in result.output


def test_a_syntax_error_is_the_scripts_own(script):
    result = doctor(script("for\n"))
    assert result.exit_code == 3
    assert "SyntaxError" in result.stderr and "train.py" in result.stderr and "runpy" not in result.stderr


def test_a_script_that_raises_at_step_3_shows_its_traceback_and_the_findings_so_far(script):
    result = doctor(script(BROADCAST, steps=9, then="if step == 2: raise ValueError('no more data')"))
    assert result.exit_code == 3
    assert "ValueError: no more data" in result.stderr
    assert "train.py" in result.stderr and "blackbelt/doctor" not in result.stderr
    assert "BB301" in result.stdout and "3 optimizer steps" in result.stdout


def test_a_script_that_never_trains(script):
    result = doctor(script("print('hello')"))
    assert result.exit_code == 0 and "hello" in result.stdout and "No optimizer step" in result.stdout


def test_a_script_gets_its_own_arguments(script):
    result = doctor("--max-steps", "2", script("import sys; print(sys.argv[1:], __name__)"), "--lr", "3", "--json")
    assert "['--lr', '3', '--json'] __main__" in result.stdout


def test_exit_codes_of_the_script(script):
    assert doctor(script("import sys; sys.exit(0)")).exit_code == 0
    result = doctor(script("import sys; sys.exit(7)"))
    assert result.exit_code == 3 and "7" in result.stderr


def test_findings_fail_the_command_and_ignoring_them_does_not(script):
    assert doctor(script(BROADCAST, steps=3, then="pass")).exit_code == 1
    assert doctor("--ignore", "BB301", script(BROADCAST, steps=3, then="pass")).exit_code == 0
    ignored = BROADCAST.replace(".mean()", ".mean()  # blackbelt: ignore[BB301] on purpose")
    assert doctor(script(ignored, steps=3, then="pass")).exit_code == 0


def test_json_alone_is_on_standard_output(script):
    result = doctor("--json", script("print('noise')\n" + BROADCAST.format(steps=2, then="print(step)")))
    report = json.loads(result.stdout)
    assert [finding["code"] for finding in report["findings"]] == ["BB301"]
    assert report["findings"][0]["place"]["line"] == 9 and report["num_steps"] == 2


def test_max_steps_and_until_sure_end_the_training(script):
    result = doctor("--max-steps", "4", script(BROADCAST, steps=1000, then="pass"))
    assert "4 optimizer steps" in result.stdout
    result = doctor("--until-sure", script(BROADCAST, steps=1000, then="pass"))
    assert result.exit_code == 1 and "1 optimizer step " in result.stdout


def test_everything_is_put_back(script):
    import os

    import torch

    watched = (torch.save, torch.autograd.backward, torch.nn.Module.__init__, torch.compile, os._exit)
    doctor(script(BROADCAST, steps=2, then="pass"))
    assert (torch.save, torch.autograd.backward, torch.nn.Module.__init__, torch.compile, os._exit) == watched
    assert torch._C._len_torch_function_stack() == 0
    assert not torch.nn.modules.module._has_any_global_hook()


def test_a_script_that_patches_torch_itself_keeps_its_patch(script):
    import torch

    original = torch.save
    text = """
    import torch
    theirs = torch.save
    def mine(*args, **kwargs):
        return theirs(*args, **kwargs)
    torch.save = mine
    """
    try:
        assert doctor(script(text)).exit_code == 0
        assert torch.save.__name__ == "mine"
    finally:
        torch.save = original


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 5])
def test_a_script_that_leaves_by_os_exit_is_reported_all_the_same(script, code):
    then = f"if step == 1: os._exit({code})"
    process = real(script(BROADCAST, steps=9, then=then))
    out, _ = process.communicate(timeout=120)
    assert "BB301" in out and "2 optimizer steps" in out
    assert process.returncode == (3 if code else 1)


@pytest.mark.slow
def test_children_neither_speak_nor_disturb(script):
    text = """
    import multiprocessing, os, torch
    def work(queue):
        model = torch.nn.Linear(2, 1)
        model(torch.ones(1, 2)).sum().backward()
        queue.put(os.getpid())
    if __name__ == "__main__":
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            child = context.Process(target=work, args=(queue,))
            child.start()
            print("child", queue.get(timeout=60) != os.getpid())
            child.join()
        if not os.fork():
            os._exit(0)
    """
    process = real(script(text))
    out, err = process.communicate(timeout=120)
    assert out.count("child True") == 2 and process.returncode == 0, err
    assert out.count("No optimizer step") == 1


@pytest.mark.slow
def test_ctrl_c_prints_the_report(script):
    process = real(script("print('up', flush=True)\n" + BROADCAST.format(steps=10**9, then="pass")))
    assert process.stdout.readline() == "up\n"
    process.stderr.readline()  # the finding, as soon as it is sure
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "BB301" in out and "optimizer steps observed" in out and process.returncode == 130


def test_sarif_names_rule_level_file_and_line(script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctor("--sarif", script(BROADCAST, steps=2, then="print(step)"))
    (run,) = json.loads(result.stdout)["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["BB301"]
    (found,) = run["results"]
    assert found["ruleId"] == "BB301" and found["level"] == "error" and "(8, 8)" in found["message"]["text"]
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "train.py" and place["region"]["startLine"] == 8

"""The words for every way in which grading can end without a verdict. Imports no torch."""

from __future__ import annotations

import re
import signal

from blackbelt.dojo.slicing import Slice
from blackbelt.dojo.verdict import KataReport, failed
from blackbelt.report import format_bytes, format_seconds

CANNOT_ANSWER = 97  # exit status of a grading process whose channel was closed under it
MAX_PROCESSES = 64


def limit_words(broken: str, seconds: float, memory_bytes: int) -> tuple[str, str]:
    if broken == "time":
        sentence = f"the code ran longer than {format_seconds(seconds)} and was ended"
        return (
            sentence,
            "Look for a loop whose condition never becomes false, or work that grows too fast with the input.",
        )
    if broken == "memory":
        sentence = f"the code used more memory than the limit of {format_bytes(memory_bytes)} and was ended"
        return sentence, "No kata needs that much: look for a size that grows with every call or is copied."
    sentence = f"the code started more than {MAX_PROCESSES} processes and was ended"
    return sentence, "No kata needs a process of its own: remove the line that starts one."


_SIGNALS = {
    "SIGSEGV": "it touched memory that is not its own (a segmentation fault)",
    "SIGBUS": "it touched memory that is not there (a bus error)",
    "SIGABRT": "a library aborted the process",
    "SIGFPE": "an integer division by zero in compiled code ended it",
    "SIGKILL": "it was killed, most often because memory ran out",
    "SIGXCPU": "it used more CPU time than allowed",
    "SIGXFSZ": "it wrote a file that is too large",
}


def crash(name: str, cut: Slice, status: int, printed: str) -> KataReport:
    """Word the end of a grading process that gave no verdict. ``status`` below zero is a signal's number."""
    line = _crash_line(cut, printed)
    if status == CANNOT_ANSWER:
        sentence = "the code closed file descriptors that it did not open, so no verdict could be given"
        return failed(name, "closed", sentence, f"Close only files you opened. {line}".strip(), printed)
    if status >= 0 and status < 0x80000000:
        sentence = f"the code ended the process (exit status {status}) before grading was finished"
        advice = "Return a value instead: remove `os._exit` and whatever else ends Python."
        return failed(name, "exit", sentence, f"{advice} {line}".strip(), printed)
    signal_name = signal.Signals(-status).name if 0 < -status < signal.NSIG else f"0x{status & 0xFFFFFFFF:08x}"
    words = _SIGNALS.get(signal_name, "it was ended from outside")
    advice = line or "Call the function on small inputs yourself, in a notebook you can lose, to find the line."
    return failed(name, "crash", f"the code crashed Python ({signal_name}): {words}", advice, printed)


def _crash_line(cut: Slice, printed: str) -> str:
    """Return the learner's line from the text that faulthandler leaves, innermost first."""
    texts = {piece.label: piece.text.splitlines() for piece in cut.pieces}
    for label, number in re.findall(r'File "([^"]*)", line (\d+) in', printed):
        lines = texts.get(label, [])
        if int(number) <= len(lines):
            return f"Look at {label}, line {number}: `{lines[int(number) - 1].strip()}`."
    return ""

"""``blackbelt``: the dojo on one screen."""

from __future__ import annotations

from collections.abc import Collection

from blackbelt.cli._output import WIDTH, say
from blackbelt.dojo.belts import Module, belt, modules, next_step
from blackbelt.dojo.catalog import LessonEntry
from blackbelt.dojo.progress import open_progress

BAR = 10


def home() -> None:
    """Show the dojo on one screen.

    Modules, lessons, katas solved, your belt, and the one next step: the same as `blackbelt` alone.

    Example:
      blackbelt
    """
    with open_progress() as progress:
        solved = progress.solved()
    worn = f"{belt(solved)} belt"
    say("PyTorch Black Belt" + worn.rjust(WIDTH - len("PyTorch Black Belt")), bold=True)
    for module in modules():
        say()
        say(_module_line(module, solved), bold=True)
        for lesson in module.lessons:
            say(_lesson_line(lesson, solved))
    say()
    for line in _next_lines(solved):
        say(line)


def _module_line(module: Module, solved: Collection[str]) -> str:
    left = f"{module.number}  {module.name.capitalize()}"
    done = sum(kata.name in solved for kata in module.katas)
    right = f"{done}/{len(module.katas)} katas" + (f": {module.belt} belt" if module.belt else "")
    right = right if module.katas else ""
    return left + right.rjust(WIDTH - len(left))


def _lesson_line(lesson: LessonEntry, solved: Collection[str]) -> str:
    katas = lesson.katas
    done = sum(kata.name in solved for kata in katas)
    full = BAR * done // len(katas) if katas else 0
    right = f"{'█' * full}{'░' * (BAR - full)}  {done}/{len(katas)}{'  done' if done == len(katas) else '      '}"
    left = f"   {lesson.number}  {lesson.plain_title}"
    room = WIDTH - len(right) - 2
    return f"{left[:room].ljust(room)}  {right if katas else ''}".rstrip()


def _next_lines(solved: Collection[str]) -> list[str]:
    step = next_step(solved)
    if step is None:
        return ["Every kata is solved. `blackbelt reset --all` begins again."]
    lesson = step.lesson
    begun = any(kata.name in solved for kata in lesson.katas)
    what = "go on with" if begun else "begin"
    kata = f"   {step.num_open} open; the next kata: {step.kata.name}" if step.kata else ""
    return [f"Next: {what} {lesson.number} {lesson.plain_title}", f"   blackbelt start {lesson.number}", kata]

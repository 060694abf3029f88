"""The trainings are run by the tests of this folder, not imported while tests are collected."""

collect_ignore = ["cases", "corpus", "unseen"]

"""The machinery of the course: kata contract, laws, grader, isolation, progress, workspace, notebook builder."""

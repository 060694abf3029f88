"""Katas of lesson 7.1: the loss at the start, examples that mix, what an update moves, a resume that is exact."""

"""Katas of lesson 1.1: the rule, its backward, outer operations, and the traps of both."""

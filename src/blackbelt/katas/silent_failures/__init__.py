"""Katas: exercises judged for what they compute and for how."""

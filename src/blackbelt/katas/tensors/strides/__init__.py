"""Katas of lesson 1.2: the view rule, windows, patches, blocks, transposes, overlap, and what a saved slice weighs."""

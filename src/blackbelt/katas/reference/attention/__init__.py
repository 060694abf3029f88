"""Katas of lesson R.2, one per file."""

"""Katas of lesson 1.4: versions, what backward needs, safe updates, an in-place activation, optimizer, average, RNN."""

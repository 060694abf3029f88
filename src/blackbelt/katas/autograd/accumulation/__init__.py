"""Katas of lesson 2.4: uneven micro-batches, tokens, clipping, a scaler, the end of an epoch, statistics, two ranks."""

"""Katas of lesson 7.2: what no optimizer holds, where NaN begins, what a kept state shares, a rule."""

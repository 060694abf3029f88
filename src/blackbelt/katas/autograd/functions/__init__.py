"""Katas of lesson 2.3: a stable formula, straight through, reversal, a cube twice, a norm, a loss, an operator."""

"""Katas of lesson R.3: a schedule's peak, the best cut, recomputing on hooks, its random numbers, its side effects."""

"""Katas of lesson 1.3: einsum, its lowering into permute and bmm, and the order of contraction."""

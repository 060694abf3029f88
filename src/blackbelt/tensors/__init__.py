"""Tools of Module 1: broadcasting, strides, einsum and in-place operations."""

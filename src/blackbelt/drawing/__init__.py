"""How a graph of boxes and arrows is laid out and drawn. Imports no torch."""

"""Tools of Module 2: the graph, what keeps it alive, custom functions and gradient accumulation."""

"""Katas of lesson 2.2: gradient norms, gradient penalty, Hessian products, MAML, truncated BPTT, Jacobians."""

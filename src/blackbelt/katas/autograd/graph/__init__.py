"""Katas of lesson 2.1: count, order and weigh nodes, a reverse-mode engine, unused parameters, a leak, a disk."""

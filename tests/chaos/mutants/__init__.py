"""Mutants of Clockjack: each patch breaks one rule; its head names the shortest scenario that must catch it."""

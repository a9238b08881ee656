"""A pipeline under faults: its own servers and processes, a load, a nemesis, and what an independent checker says."""

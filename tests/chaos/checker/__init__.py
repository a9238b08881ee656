"""The checker: decides from the files of one chaos run whether every guarantee held.

It imports nothing of the scheduler and has an opinion of its own on schedules. `python -m tests.chaos.checker DIR`.
"""

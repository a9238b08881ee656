"""What a run of the tests says at its end; tests/conftest.py adds up what its processes have here."""

from collections import Counter

compared: Counter[str] = Counter()  # by the cron oracle: windows, differences
lines: set[str] = set()  # which database it was, or NOT RUN and why

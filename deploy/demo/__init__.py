"""The main job with processes being killed, and its verdict; `python -m deploy.demo`, `make demo`, `clockjack demo`."""

"""Small complete programs on Clockjack. Each runs against `make up`; see README.md here."""

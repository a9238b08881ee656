"""Everything that runs Clockjack somewhere; nothing in the product imports it."""

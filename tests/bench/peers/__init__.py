"""The peers' own code, run by their own interpreters: workers, and the registration of N jobs due at once."""

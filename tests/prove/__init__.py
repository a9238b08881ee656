"""The longer proofs of `make prove-foundation` and `make prove-time`: real servers and processes, and their figures."""

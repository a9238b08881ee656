"""The longer proofs of `make prove-foundation`: real servers and processes, killed and frozen at exact moments."""

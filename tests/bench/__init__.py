"""The benchmarks: Clockjack beside its peers, and Clockjack alone under load. See docs/performance.md."""

"""Run: consumers execute what is due. Each process serves one queue; start as many as the work needs."""

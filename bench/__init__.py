"""Speed as ratios: every benchmark measures us, the peers and the limit in one run."""

"""The counter: what stands between a clerk and the desk of the clearing house."""

"""The arithmetic of keys: suites, lane kernels, sealed blocks. Everything here touches key bytes, so nobody outside
`keys` imports it."""

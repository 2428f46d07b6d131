"""Who may prove what: purpose-typed handles over keys that nobody can read.

    purposes     the closed set of purposes, key names, key states
    store        where keys live (`open_store`); its getters hand out the handles below and nothing else
    verifiers    TAC, seal and act verification of whole batches: verdicts only
    loads        the load authoriser, which spends a durable quota before it answers
    personaliser key steps and secured commands of cards and PSAMs
    authority    both together as the reader side's `CardAuthority`
    ceremony     how keys come into a store; with the sealed blocks of `engine` the only place that takes key bytes
    proof        proof keys, act digests and Merkle roots (SM3, no keys)
    columns      the TapRecord as a numpy dtype
    engine       suites, lane kernels, sealed blocks; imported by nobody outside this room

Cards are reached in `readers`, money is moved in `clearing`.
"""

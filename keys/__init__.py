"""Who may prove what: purpose-typed handles over keys that nobody can read.

    purposes     the closed set of purposes, key names, key states
    store        the one door to where keys live (`open_store`): in a directory (`embedded`), or in a token (`pkcs11`);
                 the getters hand out the handles below and nothing else
    wrapping     what opens a store in a directory, and how that is changed
    verifiers    TAC, seal and act verification of whole batches: verdicts only
    loads        the load authoriser, which spends a durable quota before it answers; `unloads`, the way back
    personaliser key steps and secured commands of cards and PSAMs; `upkeep`, those of issued cards
    entries      the MACs of metro gates; `psams`, the ceilings of PSAMs
    governed     the handles as a store gives them out: states and dates asked, every use in the audit
    authority    all of them together as the reader side's `CardAuthority`
    ceremony     how keys come into a store, from components of several persons; `acts`, what two persons do to them
    rotation     lives of versions, sunsets of suites; `register` reads them, `status` tells a custodian
    state        the store's file: blocks, lives, quota, audit under a chain of seals and an anchor
    tr31         key blocks to and from other centres, and `exchange`, the acts of two persons that send and take them
    sm2          signatures that strangers check
    proof        proof keys, act digests and Merkle roots (SM3, no keys)
    columns      the TapRecord as a numpy dtype
    engine       suites, lane kernels, sealed blocks; imported by nobody outside this room

Cards are reached in `readers`, money is moved in `clearing`.
"""

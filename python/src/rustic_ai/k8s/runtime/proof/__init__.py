"""Proof that a module may be shared: what it does while it is imported is nothing but memory, and the same in every process.

    prover   which modules are tried together, and what is done with the result; imports for good what has passed
      └─ trial   a throwaway fork that imports them and reports what it saw; two of them, with different identities
           ├─ inert    what differs before and after: descriptors, threads, signals, settings, modules that were there
           ├─ pure     what the new modules hold, as digests for the other fork to compare
           └─ watch    what they read meanwhile: variables of the environment, files, the network

A module that does not pass is imported by every agent itself.
"""
